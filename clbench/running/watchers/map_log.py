"""The watcher behind `--log-maps`: it measures importance and task vector at a few points of each task, and changes nothing."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from clbench.data.tasks import Example, Task
from clbench.errors import ClbenchError
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.records.maps import QUARTERS, ROWS, Maps, Numbers, Point, write_maps
from clbench.running.protocol import Run

LOG = "maps"  # the name under which the run's progress keeps the log, so that it is carried through a kill


@dataclass(eq=False)
class MapLog:
    """Log the maps of a run (`clbench.records.maps`) into its progress, and write them to their file at its end.

    What it holds within a task are numpy arrays: the cost meter looks for tensors that the method holds.
    """

    _run: Run | None = None
    _rows: dict[str, Sequence[Example]] = field(default_factory=dict)
    _start: Numbers | None = None
    _steps: int = 0
    _measured: list[tuple[Point, dict[str, Numbers], Numbers]] = field(default_factory=list)

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Take up the log of the tasks that are done, and write the file at the end."""
        self._run = run
        if run.progress.learned and LOG not in run.progress.logs:
            raise ClbenchError(
                f"{run.files.checkpoint}: begun without --log-maps; finish it without, or start anew with --force"
            )
        run.progress.logs.setdefault(LOG, {"tasks": [], "points": []})
        self._rows = {task.name: some_rows(task) for task in run.tasks[: len(run.progress.learned)]}
        result = yield
        if run.learner.devices.first:
            write_maps(run.files.maps, self.maps(run))
        return result

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Measure before and after a task."""
        self._rows[task.name], self._start, self._steps, self._measured = some_rows(task), None, 0, []
        self.measure(learner, 0, 0)
        handle = register_optimizer_step_pre_hook(lambda optimizer, *_: self.begin(learner, optimizer))
        try:
            result = yield
        finally:
            handle.remove()
        steps = max(1, self._steps)
        self.measure(learner, steps, steps)
        assert self._run is not None
        log = self._run.progress.logs[LOG]
        log["tasks"].append(task.name)
        log["points"] += [
            {**asdict(point), "importance": {k: torch.from_numpy(v) for k, v in of_task.items()}, "task_vector": vector}
            for point, of_task, vector in ((p, i, torch.from_numpy(v)) for p, i, v in self._measured)
        ]
        return result

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Measure within a task, where another quarter of its first phase is done."""
        if self._steps == 0:
            self._steps = steps
        next_quarter = sum(point.step > 0 for point, *_ in self._measured) + 1
        if step < steps and next_quarter < QUARTERS and step * QUARTERS >= next_quarter * steps:
            self.measure(learner, step, steps)

    def begin(self, learner: Learner, optimizer: torch.optim.Optimizer) -> None:
        """Take the weights before the task's first step: only now has a method started the block that it trains."""
        if self._start is None and optimizer.param_groups[0]["params"][0] is learner.weights.vector:
            self._start = numbers(learner.weights.data)

    def measure(self, learner: Learner, step: int, steps: int) -> None:
        """Take the maps at one point."""
        with undisturbed(learner):
            weights = learner.weights
            importance = {}
            for name, rows in self._rows.items():
                gradient = learner.passes.mean_gradient(rows)
                importance[name] = tensor_means(learner, (weights.data * gradient).abs())
            start = weights.data if self._start is None else torch.from_numpy(self._start).to(weights.data.device)
            moved = tensor_means(learner, (weights.data.float() - start.float()).abs())
        self._measured.append((Point(learner.task_index, step, steps), importance, moved))

    def maps(self, run: Run) -> Maps:
        """Return the log as the content of a file."""
        log: dict[str, Any] = run.progress.logs[LOG]
        vector = run.learner.weights.data
        tensors = {name: view.numel() for name, view in run.learner.weights.views(vector).items()}
        points, tasks = log["points"], log["tasks"]
        importance = np.full((len(points), len(tasks), len(tensors)), np.nan, np.float32)
        for number, point in enumerate(points):
            for name, values in point["importance"].items():
                importance[number, tasks.index(name)] = numbers(values)
        moved = np.stack([numbers(point["task_vector"]) for point in points])
        places = [Point(point["task"], point["step"], point["steps"]) for point in points]
        return Maps(run.files.name, ROWS, tasks, tensors, places, importance, moved)


def some_rows(task: Task) -> Sequence[Example]:
    """Return the training rows that a task's importance is measured on: evenly spaced ones."""
    step = max(1, len(task.train) // ROWS)
    return task.train[::step][:ROWS]


@contextmanager
def undisturbed(learner: Learner) -> Generator[None]:
    """Leave the learner's gradient, mode, counters and random numbers as they were; the time is not counted as learning."""
    gradient, training = learner.weights.grad.clone(), learner.model.training
    devices = [learner.device] if learner.device.type == "cuda" else []
    try:
        with learner.cost.aside(), torch.random.fork_rng(devices):
            yield
    finally:
        learner.weights.grad.copy_(gradient)
        learner.model.train(training)


def tensor_means(learner: Learner, values: Tensor) -> Numbers:
    """Return the mean of a vector (weights,) over each trained tensor."""
    return numbers(torch.stack([view.float().mean() for view in learner.weights.views(values).values()]))


def numbers(values: Tensor) -> Numbers:
    """Return a tensor as an array of its own."""
    return np.array(values.detach().float().cpu().numpy())
