"""Several processes, with a device each, that make one run together: what they share out, add up and leave to the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from threading import Event, Lock
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from clbench.encoding.batches import Batch
from clbench.errors import ClbenchError
from clbench.settings import Settings

T = TypeVar("T")
PATIENCE = timedelta(seconds=120)  # that the first process is given to say why another one fails
NO_PATIENCE = timedelta(seconds=10)  # where a process has died, which may be the one that is waited for
LOOK, GRACE = 0.5, 5.0  # seconds between two looks at whether another process has failed, and to notice it oneself


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
    _over: Event = field(default_factory=Event, compare=False, repr=False)
    _ending: Any = field(default_factory=Lock, compare=False, repr=False)

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
        """Close the connections, once all processes have them."""
        self._over.set()
        self._wait(PATIENCE, *(f"joined {number}" for number in range(self.count)))
        dist.destroy_process_group()

    def others_failed(self) -> bool:
        """Wait until another process has failed, and this one has had the time to notice; false where it has left."""
        while not self._over.wait(LOOK):
            if self._wait(timedelta(), "failed"):
                return not (self.first and self._over.wait(GRACE))
        return False

    def fail(self, error: BaseException, line: str, say: Callable[[str], None]) -> None:
        """Have the first process say why this one or another one fails; the caller then ends this one.

        It is waited for, since torchrun ends all as soon as one has ended. Where it says nothing in time, this one does.
        """
        self._ending.acquire()  # and never released: whoever comes first, main thread or watch, ends the process
        lost, store, heard = (
            isinstance(error, LostProcessError),
            self._store,
            [f"heard {n}" for n in range(1, self.count)],
        )
        told = self._wait(timedelta(), "failed")
        if lost and self.first and told:
            line = store.get("failed").decode()
        if not lost:
            with suppress(RuntimeError):
                who = "" if self.first else f"process {self.number} of {self.count}: "
                store.set("failed", line.replace("error: ", f"error: {who}", 1))
            self._wait(PATIENCE, *(f"joined {number}" for number in range(self.count)))
        if self.first or not self._wait(PATIENCE if told or not lost else NO_PATIENCE, "said"):
            say(line)
        with suppress(RuntimeError):
            store.set("said" if self.first else f"heard {self.number}", "")
        if self.first:
            self._wait(NO_PATIENCE, *heard)

    def _wait(self, patience: timedelta, *notes: str) -> bool:
        """Wait until there are notes of these names; return whether they came in time."""
        try:
            if not patience:
                return bool(self._store.check(list(notes)))
            self._store.wait(list(notes), patience)
            return True
        except RuntimeError:  # or the process that kept them is gone
            return False


ALONE = Devices()


def join() -> Devices:
    """Meet the other processes that torchrun started: over NCCL where there are GPUs, over gloo otherwise."""
    gpus, own = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if own < gpus:
        torch.cuda.set_device(own)
    store, number, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # which torch does not declare
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    notes = dist.PrefixStore("clbench", store)  # type: ignore[attr-defined]
    notes.set(f"joined {number}", "")
    return Devices(number, count, notes)


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
