"""The values of this room: an example, a task with its data, what is said of a task, a stream of tasks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clbench.data.rows import Row

SUFFIX = "\nAnswer:"


@dataclass(frozen=True)
class Example:
    """One question with all that is needed to ask and to score it.

    The prompt is `head + passage + tail`; the passage alone may be shortened. `references` are the answers that count as
    right where there are several, among them `target`, the one to train on. `max_answer` is the length of the task's
    answers in tokens, none where the task does not say. `id` names its row in the task's data ('test:17'); two examples that
    differ in it alone are equal.
    """

    head: str
    passage: str
    target: str
    tail: str = SUFFIX
    references: tuple[str, ...] = ()
    max_answer: int | None = None
    id: str = field(default="", compare=False)

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
    the tokens of its longest answer; `unlabelled` the marks that public data has in place of an answer; `template` the prompt of
    a user's own task over the columns of its files, of which head and tail are the ends.
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
    template: str | None = None

    def example(self, passage: str, target: str, references: tuple[str, ...] = (), id: str = "") -> Example:
        """Return one example in the task's prompt form."""
        return Example(self.head, passage.rstrip(), target, self.tail, references, self.max_answer, id)


@dataclass(frozen=True)
class Task:
    """One task with its data. `labels` is empty for free text; `metric` is a name in `clbench.data.answer_scores`."""

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    labels: tuple[str, ...] = ()
    metric: str = "exact_match"


@dataclass(frozen=True)
class Stream:
    """An ordered list of tasks. `order` is the paper's number, none for a user's own list.

    `specs` are the specifications of its tasks. A stream from a user's file reads their rows itself (`read`).
    """

    name: str
    tasks: tuple[str, ...]
    specs: tuple[TaskSpec, ...]
    order: int | None = None
    file: Path | None = None
    read: Callable[[TaskSpec, str], list[Row]] | None = field(default=None, compare=False, repr=False)

    @property
    def family(self) -> str:
        """What runs over several orders share: 'long' for 'long:1'."""
        return self.name.split(":")[0]

    def spec(self, task: str) -> TaskSpec:
        """Return the specification of one of its tasks."""
        return next(spec for spec in self.specs if spec.name == task)

    def __str__(self) -> str:
        order = f" (order {self.order})" if self.order else ""
        return f"{self.name}{order}: {' > '.join(self.tasks)}"
