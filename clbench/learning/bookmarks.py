"""Where learning stands within a task: taken out of it between two steps, put back when the task is learned again.

A task that was broken off is learned again by the same calls: `learn_task` from its first line, at the weights and with the state
that it began with. Only the steps of its phases that were taken already are passed over. So a bookmark holds what those steps
have changed, and nothing of what stands before, between and after the loops: that is computed again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from clbench.learning.stopwatch import Cost
from clbench.units import Every


class BookmarkError(ValueError):
    """The task that is learned again does not come to where the bookmark lies."""


class Phase(Protocol):
    """What a bookmark must know of a phase (`clbench.learning.training.Training`)."""

    @property
    def can_be_marked(self) -> bool:
        """Whether all that it has come to can be put back into it."""

    def place(self) -> dict[str, Any]:
        """Return where the phase stands."""

    def put_back(self, place: Mapping[str, Any], passed: int) -> None:
        """Set the phase to a place, after so many of its steps."""


class Bookmarks:
    """The bookmarks of a task, which several learners may share; none is taken before `begin_taking`.

    There are bookmarks in tasks whose phases are gone through one after the other, each in a single loop to its end. In any
    other task there are none from where that shows.
    """

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._keep: Callable[[dict[str, Any]], None] | None = None
        self._every = Every()
        self._found: dict[str, Any] | None = None
        self.begin_task()

    def begin_taking(self, keep: Callable[[dict[str, Any]], None], every: Every) -> None:
        """Take bookmarks from here on.

        Args:
            keep: puts a bookmark where a kill does not reach it.
        """
        self._keep, self._every, self._count = keep, every, every.counter()

    @property
    def are_taken(self) -> bool:
        """Whether bookmarks are taken, and a task can so go on from one."""
        return self._keep is not None

    def go_on_from(self, bookmark: dict[str, Any]) -> None:
        """Let the task that is learned next go on from a bookmark that was kept of it; its tensors may lie on the CPU."""
        self._found = bookmark

    def begin_task(self) -> None:
        """Begin a task."""
        self._ended: list[dict[str, Any]] = []  # of each phase that is over, its last place
        self._open: Phase | None = None
        self._lost = False
        self._generators: list[torch.Generator] = []
        self._count = self._every.counter()

    def end_task(self) -> None:
        """End a task.

        Raises:
            BookmarkError: it never came to the bookmark from which it was to go on.
        """
        if self._found is not None:
            raise BookmarkError("it ended without coming to the step from which it was to go on")
        self.begin_task()

    def watch(self, generator: torch.Generator) -> torch.Generator:
        """Return a generator of the method, whose state belongs to the bookmarks of the loops that begin after it was made."""
        if self.are_taken and self._open is None:
            self._generators.append(generator)
        return generator

    @property
    def tensors(self) -> Iterator[Tensor]:
        """The tensors that are held here, none of which is the method's."""
        return tensors_of(self._ended)

    def enter(self, phase: Phase) -> int:
        """Begin the loop over a phase; return how many of its steps were taken already, after putting back what they left.

        Raises:
            BookmarkError: what is there now does not fit the bookmark.
        """
        self._lost = self._lost or self._open is not None  # within another loop, or after one that was left
        if self._lost:
            return 0
        self._open = phase
        if self._found is None:
            return 0
        number, ended = len(self._ended), self._found["ended"]
        place = ended[number] if number < len(ended) else self._found["open"]
        if number == len(ended):
            self._found = None
        try:
            return self._put_back(phase, copied(place, self._cost.device))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise BookmarkError(str(error)) from error

    def step(self, phase: Phase, taken: int) -> None:
        """Take a bookmark, if one is due, after `taken` steps of a loop."""
        if not self._lost and self._count.is_due() and phase.can_be_marked:
            assert self._keep is not None
            place = self._place(phase, taken)
            with self._cost.harness, self._cost.aside():
                self._keep({"ended": self._ended, "open": place})
            self._count = self._every.counter()

    def leave(self, phase: Phase, taken: int) -> None:
        """End the loop over a phase."""
        self._lost = self._lost or not phase.can_be_marked
        if not self._lost:
            self._ended.append(copied(self._place(phase, taken), torch.device("cpu")))
            self._open = None

    def _place(self, phase: Phase, taken: int) -> dict[str, Any]:
        return {
            "taken": taken,
            "phase": phase.place(),
            "generators": [generator.get_state() for generator in self._generators],
            "random": random_states(self._cost.device),
            "cost": self._cost.place(),
        }

    def _put_back(self, phase: Phase, place: Mapping[str, Any]) -> int:
        taken: int = place["taken"]
        phase.put_back(place["phase"], taken)  # draws from the generators, to get there in its plan
        for generator, state in zip(self._generators, place["generators"], strict=True):
            generator.set_state(state.cpu())
        self._cost.put_back(place["cost"])
        set_random_states(place["random"], self._cost.device)
        return taken


def contents_of(kept: object) -> dict[str, Any] | Tensor:
    """Return what is in a tensor or a dataclass that a method keeps from step to step.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(kept, Tensor):
        return kept.detach()
    if is_dataclass(kept) and not isinstance(kept, type):
        return {field.name: getattr(kept, field.name) for field in fields(kept)}
    raise TypeError(f"keep() takes tensors that are written into and dataclasses, not {type(kept).__name__}")


@torch.no_grad()
def fill(kept: object, contents: Any) -> None:
    """Put back what `contents_of` returned: into the same tensor, or into each field of the dataclass.

    Raises:
        ValueError: it is of another shape or has other fields.
    """
    if isinstance(kept, Tensor):
        if kept.shape != contents.shape or kept.dtype != contents.dtype:
            raise ValueError(f"a tensor is {tuple(kept.shape)} of {kept.dtype}, not {tuple(contents.shape)}")
        kept.copy_(contents)
        return
    if {field.name for field in fields(kept)} != contents.keys():  # type: ignore[arg-type]  # `keep` takes no others
        raise ValueError(f"a kept {type(kept).__name__} has other fields than {sorted(contents)}")
    for name, value in contents.items():
        setattr(kept, name, value)


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the process's random generators: of torch, on the CPU and the device, of Python and of numpy."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], *rest),
    }


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set the states that `random_states` returned."""
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])


def copied(value: Any, device: torch.device) -> Any:
    """Return nested plain values with their tensors copied onto a device."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: copied(item, device) for key, item in value.items()}
    return type(value)(copied(item, device) for item in value) if isinstance(value, (list, tuple)) else value


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested plain values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)
