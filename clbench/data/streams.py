"""Find a stream by what a user calls it: its name, its order number, a file, or a list of tasks; or a family of streams."""

import re
from collections.abc import Sequence
from pathlib import Path

from clbench.data.catalogue import EXACT_IN_MIXED, SUPERNI_ANSWER, SUPERNI_TAIL, known_streams, task_specs
from clbench.data.own_streams import read_stream
from clbench.data.tasks import Stream, TaskSpec, name_passes
from clbench.errors import ClbenchError, unknown
from clbench.names import SHUFFLED, match

LISTING = "clbench streams"


def find_streams(name: str) -> list[Stream]:
    """Return all streams of a family ('standard'), or the one of a name, as `find_stream`.

    Raises:
        ClbenchError: no such family, stream or task.
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

    Case and punctuation do not count: 'Long:1', 'SST2'. A task that is named again is learned again. 'superni:363,1290' are tasks
    of SuperNI by their numbers; 'long:1~7' are the tasks of 'long:1' in an order drawn by the seed 7.

    Raises:
        ClbenchError: no such stream or task, or a family of several streams.
    """
    name, seed = split_order(name)
    found = _find_in_order(name)
    return found if seed is None else found.shuffled(seed)


def split_order(name: str) -> tuple[str, int | None]:
    """Return a stream's name without the seed of its order, and that: 'long:1' and 7 of 'long:1~7'.

    Raises:
        ClbenchError: what stands there is no seed.
    """
    first, mark, seed = name.rpartition(SHUFFLED)
    if not mark:
        return name, None
    if not seed.isdecimal():
        raise ClbenchError(f"stream '{name}': after '{SHUFFLED}' stands the seed of its order, a whole number")
    return first, int(seed)


def _find_in_order(name: str) -> Stream:
    if name.endswith(".toml"):
        return read_stream(Path(name))
    streams = known_streams()
    by_order = {str(stream.order): stream for stream in streams.values()}
    known = match(name, streams)
    stream = by_order.get(name) if known is None else streams[known]
    if stream is not None:
        return stream
    if re.fullmatch(r"superni:\d{3,4}(,\d{3,4})*", name):
        return _stream_of(name, [_superni_spec(number) for number in name.removeprefix("superni:").split(",")])
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
    return _stream_of(",".join(chosen), [task_specs()[one] for one in chosen])


def _stream_of(name: str, chosen: Sequence[TaskSpec]) -> Stream:
    specs = name_passes(chosen)
    return Stream(name, tuple(spec.name for spec in specs), specs)


def _superni_spec(number: str) -> TaskSpec:
    """Return a task of SuperNI; one that is not built in is known by its file, which has its definition."""
    known = next((spec for name, spec in task_specs().items() if name.startswith(f"task{number}_")), None)
    mixed = "exact_match" if number == EXACT_IN_MIXED else None
    task = TaskSpec(
        f"task{number}", 1, "", (), "rouge_l_ascii", SUPERNI_TAIL, max_answer=SUPERNI_ANSWER, metric_mixed=mixed
    )
    return known or task


def _find_tasks(names: Sequence[str]) -> tuple[str, ...]:
    found = []
    for name in names:
        known = match(name, task_specs())
        if known is None:
            raise unknown("task", name, task_specs(), LISTING)
        found.append(known)
    return tuple(found)
