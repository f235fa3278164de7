"""Seconds, bytes and numbers of things, as people say them: too little for a dependency (humanize)."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often something is done within a task: after so many seconds, or so many steps; as it stands, never."""

    seconds: float = math.inf
    steps: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Every:
        """Return what '10m', '90s', '2h', '100 steps' say, minutes where there is a number alone; '0' and 'none': never.

        Raises:
            ValueError: the text says nothing of the kind.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|steps?)?", text.strip().lower())
        if found is None and text.strip().lower() != "none":
            raise ValueError(f"not a time or a number of steps: {text!r}; give 10m, 90s, 2h, '100 steps', or none")
        if found is None or float(found[1]) == 0:
            return cls()
        number, unit = float(found[1]), found[2] or "m"
        return cls(steps=number) if unit.startswith("step") else cls(seconds=number * SECONDS[unit])

    def __bool__(self) -> bool:
        return self != Every()

    def counter(self) -> Counter:
        """Return what says when it is due, from now on."""
        return Counter(self)


class Counter:
    """Says when something is due."""

    def __init__(self, every: Every) -> None:
        self._due, self._left = time.monotonic() + every.seconds, every.steps

    def is_due(self) -> bool:
        """Count a step and return whether it is due now."""
        self._left -= 1
        return self._left <= 0 or time.monotonic() >= self._due


TEN_MINUTES = Every(seconds=600)


def duration(seconds: float) -> str:
    """Return seconds for people: '12 s', '3 min', '4.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Return bytes for people: '12 KiB', '3.4 GiB'."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def counted(number: int, noun: str) -> str:
    """Return a number of things for people: '1 run', '1,200 runs'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
