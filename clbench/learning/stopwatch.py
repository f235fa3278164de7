"""Count and time what one task costs; the learner and its phases count."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

COUNTERS = ("forward_batches", "forward_rows", "backward_batches", "rows", "replayed_rows", "other_rows", "held_bytes")


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
        if self._depth == 0:
            self._add()

    def _add(self) -> None:
        begin, self._begin = self._begin, self._now()
        if self._cuda:
            self._events.append((begin, self._begin))
        else:
            self._seconds += self._begin - begin

    def set(self, seconds: float) -> None:
        """Go on from a number of seconds."""
        self._seconds, self._begin = seconds, self._now()
        self._events.clear()

    def read(self) -> float:
        """Return the seconds so far, those of a block that is still open included; on CUDA this waits for the device."""
        if self._depth:
            self._add()
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
            self._events.clear()
        return self._seconds


class Cost:
    """The counters of one task; the learner and its phases count.

    Attributes:
        device: on which the time is taken.
        forward_batches: batches that went through the model, of whatever size.
        forward_rows: the rows in them.
        backward_batches: losses that were differentiated.
        rows: rows drawn to be trained on.
        replayed_rows: those of them that are not of the current task.
        other_rows: rows that are not of the current task, read beside what is drawn (`Feed.batch`, `Feed.once`) for whatever end.
        held_bytes: of the tensors that the method has made within the task and holds at its last step; none: not measured.
        whole: the time of the method's `learn_task`.
        harness: the time of the model's passes, the optimizer, the making of batches and the watchers.
        aside_seconds: the time of what a watcher measured with the model, which is no learning.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Count a new task from zero."""
        self.whole, self.harness = Stopwatch(self.device), Stopwatch(self.device)
        self.forward_batches = self.forward_rows = self.backward_batches = 0
        self.rows = self.replayed_rows = self.other_rows = 0
        self.held_bytes: int | None = None
        self.aside_seconds = 0.0
        self._begun = time.perf_counter()

    @property
    def learn_seconds(self) -> float:
        """The seconds since the task began, without those of `aside`."""
        return time.perf_counter() - self._begun - self.aside_seconds

    def place(self) -> dict[str, Any]:
        """Return what was counted so far; on CUDA this waits for the device."""
        counted = {name: getattr(self, name) for name in COUNTERS}
        watches = {"whole": self.whole.read(), "harness": self.harness.read()}
        return {"counted": counted, "watches": watches, "learn_seconds": self.learn_seconds}

    def put_back(self, place: Mapping[str, Any]) -> None:
        """Go on counting from what `place` returned."""
        for name in COUNTERS:
            setattr(self, name, place["counted"][name])
        self.whole.set(place["watches"]["whole"])
        self.harness.set(place["watches"]["harness"])
        self.aside_seconds, self._begun = 0.0, time.perf_counter() - place["learn_seconds"]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count nothing of what happens within a block but its seconds, as `aside_seconds`."""
        kept, watch = dict(vars(self)), Stopwatch(self.device)
        self.restart()
        try:
            with watch:
                yield
        finally:
            vars(self).update(kept)
            self.aside_seconds += watch.read()

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
