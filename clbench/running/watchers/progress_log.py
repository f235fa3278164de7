"""Progress as lines of a log, for whoever has no terminal: one a task, and one every half minute."""

from __future__ import annotations

import logging
import time

import msgspec

from clbench.records.heartbeat import Position
from clbench.running.watchers.follower import Follower

EVERY = 30.0  # seconds between two lines within a task
LOGGER = logging.getLogger("clbench.progress")


class ProgressLog(Follower):
    """Logs a run's positions."""

    def __init__(self, run: str) -> None:
        super().__init__([self.log])
        self.run = run
        self._last = time.monotonic()

    def log(self, position: Position) -> None:
        """Log the position if it is a new task, or half a minute after the last line; questions are logged with `-v`."""
        level = logging.INFO
        if position.doing == "ask":
            level = logging.DEBUG
        elif position.step and time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        extra = {"run": self.run, **msgspec.structs.asdict(position)}
        text = (
            f"going on after task {position.task} of {position.tasks}" if position.doing == "resume" else position.text
        )
        LOGGER.log(level, "%s: %s", self.run, text, extra={"fields": extra})
