"""What learning costs: passes through the model, replayed rows, kept bytes, seconds of a method's own arithmetic."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checkpoint import state_of
from .hookspecs import hookimpl
from .memory import Memory

if TYPE_CHECKING:
    from .learner import Learner
    from .protocol import Run
    from .streams import Task

MEASURED_TASK = 1  # the second task, the first one with a past: what a method holds within a task is measured there


class Stopwatch:
    """Add up the seconds of the blocks that it is held around (`with watch:`), nested ones once.

    On CUDA the seconds are the device's own, taken with events, so that no block waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._depth = 0
        self._seconds = 0.0
        self._begin: Any = None
        self._events: list[tuple[Any, Any]] = []

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> None:
        if self._depth == 0:
            self._begin = self._now()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        if self._cuda:
            self._events.append((self._begin, self._now()))
        else:
            self._seconds += self._now() - self._begin

    def read(self) -> float:
        """Return the seconds so far; on CUDA this waits for the device."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
            self._events.clear()
        return self._seconds


@dataclass
class Cost:
    """The counters of one task; the learner and its phases count.

    Attributes:
        forward_batches: batches that went through the model, of whatever size.
        forward_rows: the rows in them.
        backward_batches: losses that were differentiated.
        rows: rows drawn to be trained on.
        replayed_rows: those of them that are not of the current task.
        harness: the time of the model's passes, the optimizer, the making of batches and the watchers.
        aside_seconds: the time of what a watcher measured with the model, which is no learning.
    """

    harness: Stopwatch
    forward_batches: int = 0
    forward_rows: int = 0
    backward_batches: int = 0
    rows: int = 0
    replayed_rows: int = 0
    aside_seconds: float = 0.0

    @contextmanager
    def forward_pass(self, rows: int) -> Iterator[None]:
        """Count and time one forward pass."""
        with self.harness:
            self.forward_batches += 1
            self.forward_rows += rows
            yield

    def count_backward(self, _: Tensor) -> None:
        """Count one backward pass; a hook of the loss."""
        self.backward_batches += 1


@dataclass(eq=False)
class CostMeter:
    """Write the cost of each task into the run's progress; a plugin that watches the hooks."""

    method: object
    _run: Run | None = None
    _before: list[weakref.ref[Tensor]] = field(default_factory=list)
    _within: int | None = None

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Take hold of the run."""
        self._run = run
        return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Measure one task, once its method is done."""
        self._within = None
        if learner.task_index == MEASURED_TASK:
            self._before = [weakref.ref(tensor) for tensor in living_tensors()]
        whole = Stopwatch(learner.device)
        with whole:
            result = yield
        cost, seconds = learner.cost, whole.read()
        assert self._run is not None
        self._run.progress.costs.append(
            {
                "forward_batches": cost.forward_batches,
                "forward_rows": cost.forward_rows,
                "backward_batches": cost.backward_batches,
                "rows": cost.rows,
                "replayed_rows": cost.replayed_rows,
                "own_seconds": round(max(0.0, seconds - cost.harness.read()), 4),
                "kept_bytes": bytes_of(state_of(self.method)),
                "held_bytes": self._within,
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
        known = sizes_of([*usual, *(tensor for reference in self._before if (tensor := reference()) is not None)])
        found = sizes_of(living_tensors())
        self._within = sum(size for place, size in found.items() if place not in known)


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
