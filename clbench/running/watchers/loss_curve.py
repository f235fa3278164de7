"""The loss over the steps of each task, at a few points, for the record; a plugin that watches the hooks."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from clbench.data.tasks import Task
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.running.protocol import Run

POINTS = 200  # at most, of a task


@dataclass(eq=False)
class LossCurve:
    """Keep the loss of every n-th optimizer step of a task, n so that `POINTS` are enough.

    A method may train in several phases, and how many steps will come is known of the running one alone: where there are too
    many points, every other one is dropped.
    """

    _run: Run | None = None
    _count: int = 0
    _every: int = 1
    _points: list[tuple[int, float]] = field(default_factory=list)

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Take hold of the run."""
        self._run = run
        return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Put the task's points into the run's progress."""
        self._count, self._every, self._points = 0, 1, []
        result = yield
        assert self._run is not None
        steps, losses = [step for step, _ in self._points], [loss for _, loss in self._points]
        self._run.progress.losses.append({"steps": steps, "losses": losses, "of": self._count})
        return result

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Read the loss, which waits for the device, if it is this step's turn."""
        self._count += 1
        if self._count == 1:
            self._every = -(-steps // POINTS)
        if self._count % self._every:
            return
        self._points.append((self._count, float(f"{loss.item():.6g}")))
        if len(self._points) > POINTS:
            self._every *= 2
            self._points = [point for point in self._points if point[0] % self._every == 0]
