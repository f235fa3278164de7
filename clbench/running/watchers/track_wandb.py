"""`--track wandb`: Weights & Biases, offline unless WANDB_MODE says online: it might ask at the terminal for an account.

`wandb sync RESULTS/tracking/wandb/offline-run-*` sends what is there. W&B's other variables count, too: WANDB_PROJECT,
WANDB_ENTITY, WANDB_DIR, WANDB_BASE_URL ...
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import wandb

from clbench.running.watchers.tracking import PROJECT, Axis, Rows, TrackedRun

PATIENCE = 60.0  # seconds for a server to answer at the beginning, and to take the last values at the end


class WeightsAndBiases:
    """A run of W&B; a later session goes on with it by the run's key."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault(
            "WANDB_DATA_DIR", str(run.folder)
        )  # where artifacts wait, otherwise within the home folder
        quiet = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, finish_timeout=PATIENCE)
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.key,
            name=run.name,
            group=run.group,
            config=dict(run.config),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=quiet,
        )
        for pattern, axis in (("train/*", "step"), ("score/*", "task"), ("cost/*", "task")):
            self._run.define_metric(pattern, step_metric=axis)

    def log(self, axis: Axis, rows: Rows) -> None:
        """Hand over values; W&B's own process takes them."""
        for place, values in rows:
            self._run.log({axis: place, **values})

    def end(self, state: Literal["done", "failed"], summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Set the measures as the summary, and keep the files as an artifact."""
        self._run.summary.update(dict(summary))
        if files:
            artifact = wandb.Artifact(f"record-{self._run.id}", "record")
            for file in files:
                artifact.add_file(str(file))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if state == "done" else 1)


begin = WeightsAndBiases
