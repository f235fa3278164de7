"""What has become of a run, as its files tell: done, running, failed, begun or missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from clbench.atomic import read_file
from clbench.records.files import RunFiles
from clbench.records.heartbeat import Beat, read_beat

State = Literal["done", "running", "failed", "begun", "missing"]
STATES: tuple[State, ...] = ("done", "running", "failed", "begun", "missing")


@dataclass(frozen=True)
class RunState:
    """A run's state; `beat` is there where it is running, `failure` (the last lines) where it failed when it was last tried.

    'begun': there is something to go on from, and nobody does.
    """

    state: State
    beat: Beat | None = None
    failure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the state as plain values; what a running one reaches, beside it."""
        values: dict[str, Any] = {"state": self.state, "failure": self.failure or None}
        if self.beat is not None:
            beat = msgspec.structs.asdict(self.beat)
            values |= {name: beat[name] for name in ("host", "process", "since")}
            values |= msgspec.structs.asdict(self.beat.position)
        return values


def state_of_run(files: RunFiles, done: bool) -> RunState:
    """Return a run's state; `done`: whether all that is wanted of it is there."""
    beat = read_beat(files)
    if beat is not None:
        return RunState("running", beat)
    if done:
        return RunState("done")
    try:
        return RunState("failed", failure=read_file(files.failure).decode("utf-8", "replace").strip())
    except OSError:
        return RunState("begun" if files.are_begun else "missing")
