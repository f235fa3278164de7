"""Follows how far a run is, and tells those who want to know; a plugin that watches the hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence

from torch import Tensor

from clbench.data.tasks import Task
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.records.heartbeat import Position
from clbench.running.protocol import Run

OFTEN = 2.0  # seconds between two tellings within a task, each of which reads the loss and so waits for the device

Listener = Callable[[Position], None]


class Follower:
    """Tells each listener the position: at every task's begin, at every question, and every few seconds between."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = listeners
        self._rows: list[int] = []
        self._learned = ""  # the task being learned
        self._before = 0  # rows that an earlier session has learned
        self._begun = self._told = time.monotonic()

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Take the measure of the run."""
        self._rows = [len(task.train) for task in run.tasks]
        self._before = sum(self._rows[: run.progress.done])
        self._begun = time.monotonic()
        if run.progress.done:
            self._tell(run.progress.done - 1, run.tasks[run.progress.done - 1].name, "resume")
        return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Tell that a task is being learned."""
        self._learned = task.name
        if len(task.train) == sum(self._rows):  # all tasks at once: after this one nothing is left to learn
            self._rows = [0] * len(self._rows)
            self._rows[learner.task_index] = len(task.train)
        self._tell(learner.task_index, task.name, "learn")
        return (yield)

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Tell the step, every few seconds."""
        if time.monotonic() - self._told > OFTEN:
            self._tell(learner.task_index, self._learned, "learn", step, steps, loss)

    @hookimpl(wrapper=True)
    def evaluate(self, learner: Learner, task: Task) -> Generator[None, Sequence[str], Sequence[str]]:
        """Tell which task is being asked."""
        self._tell(learner.task_index, task.name, "ask")
        return (yield)

    def _tell(
        self, index: int, name: str, doing: str, step: int = 0, steps: int = 0, loss: Tensor | None = None
    ) -> None:
        self._told = time.monotonic()
        learned = doing in ("ask", "resume")
        position = Position(
            task=index + 1,
            tasks=len(self._rows),
            name=name,
            doing=doing,
            step=step,
            steps=steps,
            loss=None if loss is None else loss.item(),
            seconds_left=self._seconds_left(index, 1.0 if learned else step / steps if steps else 0.0),
        )
        for listener in self.listeners:
            listener(position)

    def _seconds_left(self, index: int, part: float) -> float | None:
        """Return the time that the rows which are left will take, if they go as the rows of this session went."""
        done = sum(self._rows[:index]) + part * self._rows[index]
        fresh = done - self._before
        if fresh <= 0:
            return None
        return (time.monotonic() - self._begun) / fresh * (sum(self._rows) - done)
