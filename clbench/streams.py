"""Tasks and streams: the examples a learner sees, and the orders in which the literature shows them."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from .errors import ClbenchError, unknown
from .rows import Row

SUFFIX = "\nAnswer:"
LONGEST_LABEL = 32  # tokens that hold every label of the Long Sequence tasks, one byte a token included


@dataclass(frozen=True)
class Example:
    """One question with all that is needed to ask and to score it.

    The prompt is `head + passage + tail`; the passage alone may be shortened. `references` are the answers that count as
    right where there are several, among them `target`, the one to train on. `max_answer` is the length of the task's
    answers in tokens, none where the task does not say.
    """

    head: str
    passage: str
    target: str
    tail: str = SUFFIX
    references: tuple[str, ...] = ()
    max_answer: int | None = None

    @property
    def prompt(self) -> str:
        """The whole text that the model reads."""
        return f"{self.head}{self.passage}{self.tail}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that counts as right."""
        return self.references or (self.target,)


@dataclass(frozen=True)
class HubData:
    """Where a task lies on the Hugging Face hub: files as patterns, the passage as a template over the columns."""

    id: str
    revision: str
    train: str
    test: str
    passage: str
    label: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TaskSpec:
    """What `tasks/*.toml` or a user's stream says of a task: its prompt, its label set (none: free text), its metric.

    `metric_mixed` is the metric of the protocol that scores some tasks otherwise (`--superni-metric mixed`); `max_answer`
    the tokens of its longest answer; `unlabelled` the marks that public data has in place of an answer.
    """

    name: str
    version: int
    head: str
    labels: tuple[str, ...]
    metric: str
    tail: str = SUFFIX
    metric_mixed: str | None = None
    max_answer: int | None = None
    unlabelled: tuple[str, ...] = ()
    hub: HubData | None = None

    def example(self, passage: str, target: str, references: tuple[str, ...] = ()) -> Example:
        """Return one example in the task's prompt form."""
        return Example(self.head, passage.rstrip(), target, self.tail, references, self.max_answer)


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
    """An ordered list of tasks. `order` is the paper's number, none for a user's own list.

    A stream from a user's file brings the specifications of its tasks and reads their rows itself (`read`).
    """

    name: str
    tasks: tuple[str, ...]
    order: int | None = None
    specs: tuple[TaskSpec, ...] = ()
    file: Path | None = None
    read: Callable[[TaskSpec, str], list[Row]] | None = field(default=None, compare=False, repr=False)

    @property
    def family(self) -> str:
        """What runs over several orders share: 'long' for 'long:1'."""
        return self.name.split(":")[0]

    def spec(self, task: str) -> TaskSpec:
        """Return the specification of one of its tasks."""
        return next((spec for spec in self.specs if spec.name == task), None) or task_specs()[task]

    def __str__(self) -> str:
        order = f" (order {self.order})" if self.order else ""
        return f"{self.name}{order}: {' > '.join(self.tasks)}"


def _read_toml(name: str) -> dict[str, dict]:
    return tomllib.loads(files("clbench.tasks").joinpath(name).read_text("utf-8"))


@cache
def task_specs() -> dict[str, TaskSpec]:
    """Return every built-in task by name."""
    hub = {name: _hub_data(row) for name, row in _read_toml("hub.toml").items()}
    long = {name: _option_spec(name, row, hub.get(name)) for name, row in _read_toml("long_sequence.toml").items()}
    return long | {name: _definition_spec(name, row) for name, row in _read_toml("superni.toml").items()}


def _hub_data(row: dict) -> HubData:
    return HubData(**{**row, "labels": tuple(row["labels"].items())})


def _option_spec(name: str, row: dict, hub: HubData | None) -> TaskSpec:
    options = ", ".join(row["labels"])
    return TaskSpec(
        name=name,
        version=row["version"],
        head=f"{row['instruction']} Option: {options}.\n",
        labels=tuple(row["labels"]),
        metric=row["metric"],
        max_answer=LONGEST_LABEL,
        unlabelled=tuple(row.get("unlabelled", ())),
        hub=hub,
    )


def _definition_spec(name: str, row: dict) -> TaskSpec:
    return TaskSpec(
        name=name,
        version=row["version"],
        head=f"Definition: {row['definition']}\n\nNow complete the following example -\nInput: ",
        labels=tuple(row.get("labels", ())),
        metric=row["metric"],
        tail="\nOutput: ",
        metric_mixed=row.get("metric_mixed"),
        max_answer=row["max_answer"],
    )


@cache
def known_streams() -> dict[str, Stream]:
    """Return every known stream by name."""
    return {name: Stream(name, tuple(row["tasks"]), row["order"]) for name, row in _read_toml("streams.toml").items()}


def find_stream(name: str) -> Stream:
    """Return the stream of a name ('long:1'), an order number ('4'), a file ('my.toml'), or of task names with commas.

    Raises:
        ClbenchError: no such stream or task, or a task named twice.
    """
    if name.endswith(".toml"):
        from .own_streams import read_stream  # here: most runs need no templates

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
    return Stream(",".join(names), names)


def _check_tasks(names: Sequence[str]) -> None:
    for name in names:
        if name not in task_specs():
            raise unknown("task", name, task_specs())
    if len(set(names)) < len(names):
        raise ClbenchError(f"a task stands twice in the stream '{','.join(names)}'; name each task once")
