# %% [markdown]
# # A plot of your own
#
# `clbench.plot` returns a matplotlib figure, to be changed and saved like any other; for anything else there are data frames.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt  # with it a notebook shows figures

import clbench

results = Path(tempfile.mkdtemp()) / "results"
for method in ("seqlora", "lorareplay"):
    clbench.run(method, stream="sst-2,agnews", limit_train=32, limit_test=16, epochs=1, results=results)
records = clbench.load_records(results)

# %%
figure = clbench.plot(records, "matrix", title="Two tasks")
figure.savefig(results / "matrix.png")
figure

# %% [markdown]
# The same scores as rows, and a picture that clbench has not: how the first task fares.

# %%
cells = records.to_pandas("cells")
first = cells[cells.task == "sst-2"].pivot(index="after_task", columns="method", values="score")
axes = first.plot(marker="o", ylabel="accuracy on sst-2 (%)")
plt.show()
