"""`--track tensorboard`: event files in `RESULTS/tracking/tensorboard/[GROUP/]NAME`, which TensorBoard shows as they grow.

It has no artifacts: the record stands among its texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch.utils.tensorboard import SummaryWriter

from clbench.records.files import slug
from clbench.running.watchers.tracking import Axis, Rows, TrackedRun


class TensorBoard:
    """A run's event files; what an earlier session wrote of steps that come again is hidden."""

    def __init__(self, run: TrackedRun) -> None:
        folder = run.folder / "tensorboard" / (slug(run.group) if run.group else "") / run.name
        self._writer = SummaryWriter(str(folder), purge_step=run.steps + 1)
        self._config = {name: "none" if value is None else value for name, value in run.config.items()}
        lines = [f"| {name} | {value} |" for name, value in self._config.items()]
        self._writer.add_text("settings", "\n".join(["| name | value |", "| --- | --- |", *lines]))

    def log(self, axis: Axis, rows: Rows) -> None:
        """Write values."""
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, state: Literal["done", "failed"], summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the measures beside the settings, for TensorBoard's page of hyperparameters, and the record."""
        if state == "done":
            self._writer.add_hparams(dict(self._config), dict(summary), run_name=".")
            self._writer.add_text("record", f"```json\n{files[0].read_text('utf-8')}\n```")
        self._writer.close()


begin = TensorBoard
