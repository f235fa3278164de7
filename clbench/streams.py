"""Tasks and streams: the examples a learner sees, and the orders in which the literature shows them."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .errors import ClbenchError, unknown

SUFFIX = "\nAnswer:"


@dataclass(frozen=True)
class Example:
    """One question: instruction line, passage, and the answer expected. The passage alone may be shortened."""

    instruction: str
    passage: str
    target: str

    @property
    def prompt(self) -> str:
        """The whole text that the model reads."""
        return f"{self.instruction}\n{self.passage}{SUFFIX}"


@dataclass(frozen=True)
class TaskSpec:
    """What `tasks/*.toml` says of a task: its prompt, its closed label set, its metric."""

    name: str
    version: int
    instruction: str
    labels: tuple[str, ...]
    metric: str

    def example(self, passage: str, target: str) -> Example:
        """Return one example in the benchmark's prompt form."""
        options = ", ".join(self.labels)
        return Example(f"{self.instruction} Option: {options}.", passage.rstrip(), target)


@dataclass(frozen=True)
class Task:
    """One task with its data. `labels` is empty for free text; `metric` is a name in `clbench.metrics`."""

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    labels: tuple[str, ...] = ()
    metric: str = "exact_match"


@dataclass(frozen=True)
class Stream:
    """An ordered list of tasks. `order` is the paper's number, none for a user's own list."""

    name: str
    tasks: tuple[str, ...]
    order: int | None = None

    @property
    def family(self) -> str:
        """What runs over several orders share: 'long' for 'long:1'."""
        return self.name.split(":")[0]

    def __str__(self) -> str:
        order = f" (order {self.order})" if self.order else ""
        return f"{self.name}{order}: {' > '.join(self.tasks)}"


def _read_toml(name: str) -> dict[str, dict]:
    return tomllib.loads(files("clbench.tasks").joinpath(name).read_text("utf-8"))


@cache
def task_specs() -> dict[str, TaskSpec]:
    """Return every known task by name."""
    return {
        name: TaskSpec(name, row["version"], row["instruction"], tuple(row["labels"]), row["metric"])
        for name, row in _read_toml("long_sequence.toml").items()
    }


@cache
def known_streams() -> dict[str, Stream]:
    """Return every known stream by name."""
    return {name: Stream(name, tuple(row["tasks"]), row["order"]) for name, row in _read_toml("streams.toml").items()}


def find_stream(name: str) -> Stream:
    """Return the stream of a name ('long:1'), of a paper's order number ('4'), or of task names joined by commas.

    Raises:
        ClbenchError: no such stream or task, or a task named twice.
    """
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
    return Stream(",".join(names), names)


def _check_tasks(names: Sequence[str]) -> None:
    for name in names:
        if name not in task_specs():
            raise unknown("task", name, task_specs())
    if len(set(names)) < len(names):
        raise ClbenchError(f"a task stands twice in the stream '{','.join(names)}'; name each task once")
