# %% [markdown]
# # A method of your own
#
# A method is a class with one hook. This one keeps the weights near those at the start of the task.

# %%
import tempfile
from pathlib import Path

import clbench

folder = Path(tempfile.mkdtemp())
plugin = folder / "near.py"
plugin.write_text('''
"""Near: pull the weights towards where the task began."""

from typing import Annotated

from annotated_types import Ge

from clbench import Search, hookimpl


class Near:
    """Pull the weights towards where the task began."""

    def __init__(self, strength: Annotated[float, "of the pull", Ge(0), Search(1e-3, 1, log=True)] = 0.1):
        self.strength = strength

    @hookimpl
    def learn_task(self, learner, task):
        start = learner.weights.copy()
        training = learner.training(task.train)
        for batch in training:
            pull = (learner.weights.vector - start).square().sum()
            training.step(learner.loss(batch) + self.strength * pull)
        return training.stats


@hookimpl
def methods():
    return {"near": Near}
''')

# %% [markdown]
# `clbench check-method near --plugin near.py` tells whether it learns, resumes and reloads as a method should. Here it is beside
# the baseline, which has no pull:

# %%
small = {"stream": "sst-2,agnews", "limit_train": 32, "limit_test": 16, "epochs": 1, "results": folder / "results"}
clbench.run("seqlora", **small)
for strength in (0.01, 1.0):
    clbench.run("near", options={"strength": strength}, plugins=[plugin], **small)
clbench.leaderboard(clbench.load_records(folder / "results"))
