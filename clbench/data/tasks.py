"""The values of this room: an example, a task with its data, what is said of a task, a stream of tasks."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clbench.data.rows import Row
from clbench.names import SHUFFLED
from clbench.seeds import derive_seed

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

    `metric_mixed` is the metric of the protocol that scores some tasks otherwise (`--superni-metric mixed`); `further_metrics`
    are those whose scores a record keeps beside the one that fills its matrix; `max_answer`
    the tokens of its longest answer; `unlabelled` the marks that public data has in place of an answer; `template` the prompt of
    a user's own task over the columns of its files, of which head and tail are the ends. `again` is the task whose data it has,
    where a stream learns that once more.
    """

    name: str
    version: int
    head: str
    labels: tuple[str, ...]
    metric: str
    tail: str = SUFFIX
    metric_mixed: str | None = None
    further_metrics: tuple[str, ...] = ()
    max_answer: int | None = None
    unlabelled: tuple[str, ...] = ()
    hub: HubData | None = None
    template: str | None = None
    again: str | None = None

    @property
    def data_name(self) -> str:
        """The name of its data: of a task that is learned once more, that of its first pass."""
        return self.again or self.name

    def example(self, passage: str, target: str, references: tuple[str, ...] = (), id: str = "") -> Example:
        """Return one example in the task's prompt form."""
        return Example(self.head, passage.rstrip(), target, self.tail, references, self.max_answer, id)


@dataclass(frozen=True)
class Task:
    """One task with its data. `labels` is empty for free text; metrics are names in `clbench.data.answer_scores`."""

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    labels: tuple[str, ...] = ()
    metric: str = "exact_match"
    further_metrics: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric that fills the matrix, then the further ones."""
        return (self.metric, *self.further_metrics)


def name_passes(specs: Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
    """Return the specifications with a name for each pass: of a task that stands there before, 'agnews@2', 'agnews@3'."""
    passes: Counter[str] = Counter()
    named = []
    for spec in specs:
        first = spec.data_name
        passes[first] += 1
        number = passes[first]
        named.append(
            replace(spec, name=first, again=None)
            if number == 1
            else replace(spec, name=f"{first}@{number}", again=first)
        )
    return tuple(named)


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
        return self.name.split(":")[0].split(SHUFFLED)[0]

    def shuffled(self, seed: int) -> "Stream":
        """Return the stream 'long:1~7' of the same tasks in the order that a seed draws."""
        drawn = random.Random(derive_seed("order of tasks", seed)).sample(self.specs, len(self.specs))
        specs = name_passes(drawn)
        return replace(
            self, name=f"{self.name}{SHUFFLED}{seed}", tasks=tuple(spec.name for spec in specs), specs=specs, order=None
        )

    def spec(self, task: str) -> TaskSpec:
        """Return the specification of one of its tasks."""
        return next(spec for spec in self.specs if spec.name == task)

    def __str__(self) -> str:
        order = f" (order {self.order})" if self.order else ""
        return f"{self.name}{order}: {' > '.join(self.tasks)}"
