"""What learning costs: passes through the model, replayed rows, kept bytes, seconds of a method's own arithmetic."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clbench.data.tasks import Task
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.learning.replay_memory import Memory
from clbench.running.checkpoints import state_of
from clbench.running.protocol import Run

MEASURED_TASK = 1  # the second task, the first one with a past: what a method holds within a task is measured there


@dataclass(eq=False)
class CostMeter:
    """Write the cost of each task into the run's progress; a plugin that watches the hooks."""

    method: object
    _run: Run | None = None
    _before: list[weakref.ref[Tensor]] = field(default_factory=list)

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Take hold of the run."""
        self._run = run
        return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Measure one task, once its method is done."""
        if learner.task_index == MEASURED_TASK:
            self._before = [weakref.ref(tensor) for tensor in living_tensors()]
        cost = learner.cost
        with cost.whole:
            result = yield
        passes = torch.tensor([cost.forward_batches, cost.forward_rows, cost.backward_batches])
        forward_batches, forward_rows, backward_batches = learner.devices.add_up(passes).tolist()
        assert self._run is not None
        self._run.progress.costs.append(
            {
                "forward_batches": forward_batches,
                "forward_rows": forward_rows,
                "backward_batches": backward_batches,
                "rows": cost.rows,
                "replayed_rows": cost.replayed_rows,
                "own_seconds": round(max(0.0, cost.whole.read() - cost.harness.read()), 4),
                "kept_bytes": bytes_of(state_of(self.method)),
                "held_bytes": cost.held_bytes,
            }
        )
        return result

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """At the last step of the measured task, see which tensors the method has made in it and still holds."""
        if learner.task_index != MEASURED_TASK or step != steps:
            return
        gc.collect()  # activations in a cycle of references are nobody's, but live until the next collection
        moments = [] if learner.phase is None else learner.phase.optimizer.state[learner.weights.vector].values()
        usual = [tensor for tensor in moments if isinstance(tensor, Tensor)]
        known = sizes_of(
            [*usual, *learner.losses, *learner.bookmarks.tensors]
            + [tensor for reference in self._before if (tensor := reference()) is not None]
        )
        found = sizes_of(living_tensors())
        learner.cost.held_bytes = sum(size for place, size in found.items() if place not in known)


def sizes_of(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Return the bytes of the storages that tensors lie in, by address."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def living_tensors() -> list[Tensor]:
    """Return the floating-point tensors that Python holds (looks at all objects: a tenth of a second)."""
    objects, kinds = gc.get_objects(), {Tensor, torch.nn.Parameter}
    tensors = itertools.compress(objects, map(kinds.__contains__, map(type, objects)))
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def bytes_of(value: Any) -> int:
    """Return the bytes of a method's state: tensors as they lie in memory, a `Memory` as its texts."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Memory):
        return sum(len((example.prompt + example.target).encode()) for example in value.examples)
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(bytes_of, value))
    return len(value.encode()) if isinstance(value, str) else 8 if isinstance(value, (int, float)) else 0
