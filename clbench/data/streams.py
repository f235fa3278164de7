"""Find a stream by what a user calls it: its name, its order number, a file, or a list of tasks; or a family of streams."""

from collections.abc import Sequence
from pathlib import Path

from clbench.data.catalogue import known_streams, task_specs
from clbench.data.own_streams import read_stream
from clbench.data.tasks import Stream
from clbench.errors import ClbenchError, unknown
from clbench.names import match

LISTING = "clbench streams"


def find_streams(name: str) -> list[Stream]:
    """Return all streams of a family ('standard'), or the one of a name, as `find_stream`.

    Raises:
        ClbenchError: no such family, stream or task, or a task named twice.
    """
    family = match(name, families())
    return [find_stream(name)] if family is None else families()[family]


def families() -> dict[str, list[Stream]]:
    """Return the built-in streams by family."""
    found: dict[str, list[Stream]] = {}
    for stream in known_streams().values():
        found.setdefault(stream.family, []).append(stream)
    return found


def find_stream(name: str) -> Stream:
    """Return the stream of a name ('long:1'), an order number ('4'), a file ('my.toml'), or of task names with commas.

    Case and punctuation do not count: 'Long:1', 'SST2'.

    Raises:
        ClbenchError: no such stream or task, a family of several streams, or a task named twice.
    """
    if name.endswith(".toml"):
        return read_stream(Path(name))
    streams = known_streams()
    by_order = {str(stream.order): stream for stream in streams.values()}
    known = match(name, streams)
    stream = by_order.get(name) if known is None else streams[known]
    if stream is not None:
        return stream
    names = [part.strip() for part in name.split(",")]
    if len(names) == 1 and match(names[0], task_specs()) is None:
        if name.isdigit():
            raise unknown("order", name, by_order)
        family = match(name, families())
        if family is not None:
            several = ", ".join(one.name for one in families()[family])
            raise ClbenchError(f"'{name}' is a family of streams: {several}; name one of them here")
        raise unknown("stream or task", name, [*streams, *families(), *task_specs()], LISTING)
    chosen = _find_tasks(names)
    return Stream(",".join(chosen), chosen, tuple(task_specs()[one] for one in chosen))


def _find_tasks(names: Sequence[str]) -> tuple[str, ...]:
    found = []
    for name in names:
        known = match(name, task_specs())
        if known is None:
            raise unknown("task", name, task_specs(), LISTING)
        found.append(known)
    if len(set(found)) < len(found):
        raise ClbenchError(f"a task stands twice in the stream '{','.join(names)}'; name each task once")
    return tuple(found)
