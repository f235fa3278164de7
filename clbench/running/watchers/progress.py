"""The live progress display of a run, as a plugin that watches the hooks."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from clbench.data.tasks import Task
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.running.protocol import Run

REFRESH = 0.2  # seconds between two readings of the loss, each of which waits for the device


class ProgressDisplay:
    """Show the task being learned, its steps and loss, and print one line of scores per task."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self._shown = 0.0
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._stream = self._bars.add_task(title, note="")
        self._step = self._bars.add_task("", note="", visible=False)

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Keep the display up while the stream runs."""
        done = run.progress.done
        if done:
            self.console.print(f"{self.title}: going on after task {done} of {len(run.tasks)}")
        with self._bars:
            self._bars.update(self._stream, total=len(run.tasks), completed=done)
            return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Show a bar of steps while a task is learned."""
        self._bars.reset(self._step, description=f"learn {task.name}", note="", visible=True, total=None)
        result = yield
        self._bars.update(self._step, visible=False)
        return result

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Move the bar, a few times a second."""
        now = time.monotonic()
        if now - self._shown > REFRESH or step == steps:
            self._shown = now
            self._bars.update(self._step, completed=step, total=steps, note=f"loss {loss.item():.3f}")

    @hookimpl(wrapper=True)
    def evaluate(self, learner: Learner, task: Task) -> Generator[None, Sequence[str], Sequence[str]]:
        """Say which task is being asked."""
        self._bars.update(self._stream, note=f"ask {task.name}", completed=learner.task_index)
        result = yield
        self._bars.update(self._stream, note="", completed=learner.task_index + 1)
        return result
