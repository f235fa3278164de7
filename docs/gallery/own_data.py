# %% [markdown]
# # Your own data
#
# A stream is a TOML file that names tasks, their files, and the prompt that a row is filled into.

# %%
import csv
import tempfile
from pathlib import Path

import clbench

folder = Path(tempfile.mkdtemp())
ROWS = {
    "mood": ("sad", "glad", ["It rained all day", "We won the cup"]),
    "length": ("short", "long", ["No", "This took much longer than anybody thought"]),
}
for task, (first, second, texts) in ROWS.items():
    for split, count in (("train", 16), ("test", 6)):
        with (folder / f"{task}_{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([f"{texts[row % 2]} ({split} {row})", (first, second)[row % 2]] for row in range(count))

# %%
TASK = """
[tasks.{task}]
train = "{task}_train.csv"
test = "{task}_test.csv"
prompt = "Choose: {first}, {second}.\\n{{text}}\\nAnswer:"
target = "label"
labels = ["{first}", "{second}"]
"""
stream = folder / "mine.toml"
stream.write_text("".join(TASK.format(task=task, first=first, second=second) for task, (first, second, _) in ROWS.items()))
print(stream.read_text())

# %% [markdown]
# `clbench streams check mine.toml` shows what comes out of it. The file's path is the stream's name:

# %%
record = clbench.run("seqlora", stream=str(stream), epochs=2, results=folder / "results")
record

# %% [markdown]
# What was answered to each question, and what counts as right:

# %%
clbench.load_records(folder / "results").to_pandas("answers")[["after_task", "task", "answer", "accepted"]].tail()
