"""Ends a trial of `clbench tune` that does worse than half of the others; a plugin that watches the hooks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from statistics import fmean

from clbench.data.tasks import Task
from clbench.errors import ClbenchError
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.running.protocol import Progress, Run


class PrunedError(ClbenchError):
    """A trial was ended early: no fault of the method."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(f"pruned after {progress.done} tasks")
        self.progress = progress


class Pruning:
    """Hands the mean score on the tasks so far to `report`, after each task, and ends the run where that returns True.

    Of a run that is taken up, all that it had reached is handed over again.
    """

    def __init__(self, report: Callable[[int, float], bool]) -> None:
        self.report = report
        self._run: Run | None = None

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Take note of the run."""
        self._run = run
        return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Look at what is reached before the next task is learned."""
        assert self._run is not None  # `run_stream` calls `learn_task`
        progress = self._run.progress
        for index, score in enumerate(reached(progress.scores)[: progress.done]):
            if score is not None and self.report(index, score):
                raise PrunedError(progress)
        return (yield)


def reached(scores: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return, after each task, the mean score on the tasks so far; none where one of them was not asked."""
    rows = [row[: index + 1] for index, row in enumerate(scores)]
    return [None if None in row else fmean(score for score in row if score is not None) for row in rows]
