"""Several processes, with a device each, that make one run together: what they share out, add up and leave to the first."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from clbench.encoding.batches import Batch
from clbench.errors import ClbenchError
from clbench.settings import Settings

T = TypeVar("T")
PATIENCE = timedelta(seconds=30)  # that the first process is given to say why another one fails
NO_PATIENCE = timedelta(seconds=5)  # where a process has died, which may have been the first


class LostProcessError(ClbenchError):
    """Another process of the run has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Devices:
    """The processes of one run, each of which executes the same program; by default there is one.

    A batch is divided among them as one process divides it into micro-batches: a loss counts by its share of the target tokens
    of the whole step, and the gradient of a step is the sum over the processes. What is not divided, all of them do alike.

    Attributes:
        number: of this process, from 0.
        count: of all processes.
    """

    number: int = 0
    count: int = 1
    _store: Any = field(default=None, compare=False, repr=False)  # what all of them can write notes into

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes the run's files, and speaks."""
        return self.number == 0

    def placed(self, settings: Settings) -> Settings:
        """Return the settings with this process's device: its own GPU, or the CPU where there is none.

        Raises:
            ClbenchError: the settings name one device for all.
        """
        if self.count == 1 or settings.device == "cpu":
            return settings
        if settings.device not in ("auto", "cuda"):
            raise ClbenchError(f"--device {settings.device} is one device for {self.count} processes; use auto or cpu")
        own = f"cuda:{os.environ.get('LOCAL_RANK', self.number)}"
        return replace(settings, device=own if torch.cuda.is_available() or settings.device == "cuda" else "cpu")

    def part(self, batch: Batch) -> Batch:
        """Return this process's rows of a batch."""
        return batch if self.count == 1 else batch.part(self.number, self.count)

    def mine(self, items: Iterable[T]) -> Iterator[T]:
        """Yield this process's share of some items: each `count`-th."""
        return islice(items, self.number, None, self.count)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes; the gradient of each one's tensor is that of the sum."""
        if self.count == 1:
            return tensor
        total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]  # torch's
        return total

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return the first process's tensor."""
        if self.count == 1:
            return tensor
        found = tensor.clone(memory_format=torch.contiguous_format)
        with _together():
            dist.broadcast(found, 0)
        return found

    def gather(self, value: T) -> list[T]:
        """Return a value of each process, in their order."""
        found: list[Any] = [value] * self.count
        if self.count > 1:
            with _together():
                dist.all_gather_object(found, value)
        return found

    def first_does(self, deed: Callable[[], T]) -> T:
        """Let the first process do something; return what it returned."""
        if self.count == 1:
            return deed()
        found: list[Any] = [deed() if self.first else None]
        with _together():
            dist.broadcast_object_list(found)
        result: T = found[0]
        return result

    def leave(self) -> None:
        """Close the connections; others who wait for this process fail from here on."""
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group()

    def fail(self, error: BaseException, line: str) -> str:
        """Leave because of an error; return the line that this process has to say, empty where the first one says it.

        The first process says why another one failed. It is waited for, since torchrun ends all as soon as one has ended.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lost, store = isinstance(error, LostProcessError), self._store
        with suppress(RuntimeError):  # the process that kept the store is gone
            if self.first:
                told = store.get("failed").decode() if lost and store.check(["failed"]) else line
                self.leave()
                store.set("said", "")
                return told
            if not lost:
                store.set("failed", line.replace("error: ", f"error: process {self.number} of {self.count}: ", 1))
            self.leave()
            store.wait(["said"], NO_PATIENCE if lost else PATIENCE)
            return ""
        return line


ALONE = Devices()


def join() -> Devices:
    """Meet the other processes that torchrun started: over NCCL where there are GPUs, over gloo otherwise."""
    gpus, own = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if own < gpus:
        torch.cuda.set_device(own)
    store, number, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # which torch does not declare
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    return Devices(number, count, dist.PrefixStore("clbench", store))  # type: ignore[attr-defined]


class _Sum(torch.autograd.Function):
    """The sum over the processes, which can be differentiated: each process's loss depends on every process's tensor."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with _together():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient)  # type: ignore[no-untyped-call]
        return total


@contextmanager
def _together() -> Iterator[None]:
    """Say that it is another process that has ended, where an exchange fails.

    Raises:
        LostProcessError: it fails.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this run has ended; the same command goes on after the last finished task"
        ) from error
