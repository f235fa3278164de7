# %% [markdown]
# # Is the difference more than chance?
#
# Two methods, two seeds each. The leaderboard with `significance` resamples test rows and runs (paired bootstrap).

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import clbench

results = Path(tempfile.mkdtemp()) / "results"
for method in ("seqlora", "lorareplay"):
    for seed in (1, 2):
        clbench.run(method, stream="sst-2,agnews", seed=seed, limit_train=32, limit_test=16, epochs=1, results=results)

# %%
command = [sys.executable, "-c", "from clbench.cli.main import main; main()"]
words = ["leaderboard", "--results", str(results), "--significance"]
print(subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# Intervals that overlap, and a large p: so few rows and seeds say nothing. The answers behind it are rows, for your own test:

# %%
answers = clbench.load_records(results).to_pandas("answers")
answers.groupby(["method", "seed", "task"]).score.mean().unstack()
