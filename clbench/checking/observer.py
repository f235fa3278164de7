"""Watch a run from within: which rows are read, which optimizers step, what the weights become; and stop it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from clbench.data.tasks import Example, Task
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.running.checkpoints import load_checkpoint
from clbench.running.protocol import Run


class WatchedExample(Example):
    """An example that tells whenever its text is read."""

    key: tuple[str, str, int]
    tell: Callable[[tuple[str, str, int]], None]

    @classmethod
    def of(cls, example: Example, key: tuple[str, str, int], tell: Callable[[Any], None]) -> WatchedExample:
        """Return a watched copy of an example; `tell` is called with the key at each reading."""
        watched = cls(**vars(example))
        object.__setattr__(watched, "key", key)
        object.__setattr__(watched, "tell", tell)
        return watched

    def __getattribute__(self, name: str) -> Any:
        if name in ("passage", "target", "references"):
            own = object.__getattribute__(self, "__dict__")
            if "tell" in own:
                own["tell"](own["key"])
        return object.__getattribute__(self, name)


@dataclass(eq=False)
class Observer:
    """Watch a run: what is read, which optimizers step, what the weights are, whether answers depend on the task's name."""

    tasks: list[Task] = field(default_factory=list)
    read: list[set[tuple[str, str, int]]] = field(default_factory=list)
    rates: list[dict[torch.optim.Optimizer, float]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    state: Mapping[str, Any] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    _own: set[tuple[str, str, int]] | None = None

    def watch(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks with watched rows."""

        def watched(task: Task, split: str, rows: Sequence[Example]) -> tuple[Example, ...]:
            return tuple(WatchedExample.of(row, (task.name, split, i), self._tell) for i, row in enumerate(rows))

        self.tasks = [
            replace(task, train=watched(task, "train", task.train), test=watched(task, "test", task.test))
            for task in tasks
        ]
        return self.tasks

    def _tell(self, key: tuple[str, str, int]) -> None:
        if self._own is not None and key not in self._own:
            self.read[-1].add(key)

    def _stepping(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        rate = max(float(group["lr"]) for group in optimizer.param_groups)
        self.rates[-1][optimizer] = max(rate, self.rates[-1].get(optimizer, 0.0))

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Keep the last checkpoint and ask all questions once more, as those of one task without a name."""
        self.weights.append(run.learner.weights.copy())
        result = yield
        if run.files.checkpoint.exists():
            self.state = load_checkpoint(run.files.checkpoint, run.learner.device, run.opened.identity)["method"]
        questions = tuple(example for task in run.tasks for example in task.test)
        unnamed = Task("unnamed", (), questions)
        self.unnamed = [str(answer) for answer in run.hook.evaluate(learner=run.learner, task=unnamed)]
        return result

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Note what happens while a task is learned."""
        self.read.append(set())
        self.rates.append({})
        self.steps.append(0)
        handle = register_optimizer_step_pre_hook(self._stepping)
        self._own = {row.key for row in task.train if isinstance(row, WatchedExample)}
        try:
            return (yield)
        finally:
            self._own = None
            handle.remove()
            self.weights.append(learner.weights.copy())

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Count the steps of each task."""
        self.steps[-1] += 1


class Stopped(KeyboardInterrupt):
    """Stands for a kill."""


@dataclass(eq=False)
class Stopper:
    """Stop a run at a step of a task (both from 1): at the first one of the second task."""

    step: int = 1
    task: int = 2
    _taken: int = 0

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Stop."""
        self._taken += learner.task_index == self.task - 1
        if self._taken == self.step:
            raise Stopped
