"""`--track trackio`: trackio's own database on this machine (TRACKIO_DIR; `trackio show` reads it), or a Space or server.

trackio's variables TRACKIO_SPACE_ID and TRACKIO_SERVER_URL name those.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import trackio

from clbench.running.watchers.tracking import PROJECT, Axis, Rows, TrackedRun

# Its thread warns of each batch that it cannot write. What is wrong is said once, by the first call that fails.
warnings.filterwarnings("ignore", "trackio", UserWarning)


class Trackio:
    """A run of trackio; a later session goes on with the latest one of its name."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = trackio.init(
            project=PROJECT,
            name=run.name,
            group=run.group,
            config=dict(run.config),
            resume="allow" if run.goes_on else "never",
            embed=False,
        )

    def log(self, axis: Axis, rows: Rows) -> None:
        """Hand over values; a thread of trackio's writes them."""
        for place, values in rows:
            self._run.log(dict(values), step=place)

    def end(self, state: Literal["done", "failed"], summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Hand over the measures, keep the files as an artifact, and wait until all is written."""
        try:
            if summary:
                self._run.log(dict(summary), step=0)
            if files:
                artifact = trackio.Artifact(name=f"record-{self._run.name}", type="record")
                for file in files:
                    artifact.add_file(str(file))
                self._run.log_artifact(artifact)
        finally:
            trackio.finish()


begin = Trackio
