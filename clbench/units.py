"""Seconds, bytes and numbers of things, as people say them."""


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
