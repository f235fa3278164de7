"""Find a stream by what a user calls it: its name, its order number, a file, or a list of tasks."""

from collections.abc import Sequence
from pathlib import Path

from clbench.data.catalogue import known_streams, task_specs
from clbench.data.own_streams import read_stream
from clbench.data.tasks import Stream
from clbench.errors import ClbenchError, unknown


def find_stream(name: str) -> Stream:
    """Return the stream of a name ('long:1'), an order number ('4'), a file ('my.toml'), or of task names with commas.

    Raises:
        ClbenchError: no such stream or task, or a task named twice.
    """
    if name.endswith(".toml"):
        return read_stream(Path(name))
    streams = known_streams()
    by_order = {str(stream.order): stream for stream in streams.values()}
    stream = streams.get(name) or by_order.get(name)
    if stream is not None:
        return stream
    names = tuple(part.strip() for part in name.split(","))
    if len(names) == 1 and names[0] not in task_specs():
        if name.isdigit():
            raise unknown("order", name, by_order)
        raise unknown("stream or task", name, [*streams, *task_specs()])
    _check_tasks(names)
    return Stream(",".join(names), names, tuple(task_specs()[one] for one in names))


def _check_tasks(names: Sequence[str]) -> None:
    for name in names:
        if name not in task_specs():
            raise unknown("task", name, task_specs())
    if len(set(names)) < len(names):
        raise ClbenchError(f"a task stands twice in the stream '{','.join(names)}'; name each task once")
