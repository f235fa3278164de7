# %% [markdown]
# # A first run
#
# One method learns two tasks in turn, with the language model that comes with clbench and its toy data: no download, no GPU.

# %%
import tempfile
from pathlib import Path

import clbench

results = Path(tempfile.mkdtemp()) / "results"
small = {"limit_train": 32, "limit_test": 16, "epochs": 1, "results": results}
record = clbench.run("seqlora", stream="sst-2,agnews", **small)

# %% [markdown]
# The record holds every score: a row after each task, a column for each task that was asked. A notebook shows it as a table.

# %%
record

# %% [markdown]
# A second method, and both beside each other. A run that is there already is not made again.

# %%
clbench.run("lorareplay", stream="sst-2,agnews", options={"memory_ratio": 0.25}, **small)
records = clbench.load_records(results)
clbench.leaderboard(records)

# %% [markdown]
# Everything is a data frame, too: one row a run, a cell of the matrix, or an answer.

# %%
records.to_pandas("answers")[["method", "after_task", "task", "answer", "score"]].head()
