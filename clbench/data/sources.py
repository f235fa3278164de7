"""Where examples come from: the embedded toy data, a folder in a release's layout, the Hugging Face hub, a user's files.

A source reads a task's rows of one split; `make_tasks` turns rows into tasks, whatever the source: it carves a validation
set out of the training rows, cuts to the limits, and refuses an answer outside the label set.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Literal

from clbench.data.answer_scores import FULL, Metric, exact_match
from clbench.data.layouts import find_layout
from clbench.data.rows import Row
from clbench.data.tasks import Example, Stream, Task, TaskSpec
from clbench.data.text_forms import is_empty
from clbench.data.toy import TOY_TASKS, toy_rows
from clbench.errors import ClbenchError
from clbench.seeds import derive_seed
from clbench.settings import Settings

HUB = "hub"
HUB_TRAIN_ROWS = 1000  # a task, as in the paper
HUB_TEST_ROWS = 500  # a class, as in the paper


@dataclass(frozen=True)
class Source:
    """Reads the rows of a task in the split 'train', 'test' or 'dev' (none where there is no dev split).

    `train_rows` and `test_per_class` are the cuts of a source that holds whole data sets, where none are asked for.
    """

    read: Callable[[TaskSpec, str], Sequence[Row]]
    train_rows: int | None = None
    test_per_class: int | None = None


@dataclass(frozen=True)
class Selection:
    """Which rows of the data a run takes; the fields are settings of the same names.

    Training rows depend on the seed; test and validation rows do not, so that runs with different seeds are scored on the
    same questions.
    """

    limit_train: int | None = None
    limit_test: int | None = None
    seed: int = 0
    train_per_class: int | None = None
    validation: int = 0
    evaluate_on: Literal["test", "validation"] = "test"
    template: Literal["auto", "plain", "alpaca", "release"] = "auto"
    overlap: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Selection":
        """Return what a run's settings ask for."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


def open_source(data: str, layout: str = "auto", stream: Stream | None = None) -> Source:
    """Return the source that `--data` names: 'toy', 'hub', 'hub:FOLDER' (a copy of it), or a folder; or a stream's own.

    Raises:
        ClbenchError: no such folder, or one in an unknown layout.
    """
    if stream is not None and stream.read is not None:
        return Source(cache(stream.read))
    if data == "toy":
        return Source(cache(_toy_rows))
    if data == HUB or data.startswith(f"{HUB}:"):
        from clbench.data.hub import read_hub  # here: `datasets` is slow to import

        mirror = Path(data.removeprefix(f"{HUB}:")) if data != HUB else None
        return Source(cache(lambda spec, split: read_hub(spec, split, mirror)), HUB_TRAIN_ROWS, HUB_TEST_ROWS)
    folder = Path(data)
    if not folder.is_dir():
        raise ClbenchError(f"no data '{data}': not 'toy' and not a folder, nor 'hub' or 'hub:FOLDER'")
    found = find_layout(folder, layout)
    return Source(cache(lambda spec, split: found.rows(folder, spec, split)))


def _toy_rows(spec: TaskSpec, split: str) -> list[Row]:
    if spec.data_name not in TOY_TASKS:
        raise ClbenchError(f"task '{spec.name}' has no toy data; give its folder with --data FOLDER")
    if split == "dev":
        return []
    return [
        Row(passage, (target,), f"toy {spec.data_name} {split}: row {number}", number)
        for number, (passage, target) in enumerate(toy_rows(spec.data_name, split))
    ]


def load_tasks(
    data: str, stream: Stream, limit_train: int | None = None, limit_test: int | None = None, seed: int = 0
) -> list[Task]:
    """Return the stream's tasks with their examples, cut to the limits; `make_tasks` has the other choices."""
    return make_tasks(open_source(data, stream=stream), stream, Selection(limit_train, limit_test, seed))


def make_tasks(source: Source, stream: Stream, selection: Selection, superni_metric: str = "rouge") -> list[Task]:
    """Return the stream's tasks with their examples.

    With `evaluate_on` 'validation', the questions of a task are its validation rows and the test rows are not there.

    Raises:
        ClbenchError: the data is missing or malformed, has an answer outside the label set, or too few rows.
    """
    made = [_make_task(source, spec, selection, superni_metric) for spec in stream.specs]
    return blurred(made, selection.overlap, selection.seed) if selection.overlap else made


def blurred(tasks: Sequence[Task], share: float, seed: int) -> list[Task]:
    """Return the tasks with blurred boundaries: neighbours exchange a share of their training rows, each row learned once.

    Half of the share of a task's rows, drawn by the seed, are learned with the task before it, half with the one after it; of the
    first and the last task, which have one neighbour, half of the share stays.
    """
    parts: list[list[Example]] = [[] for _ in tasks]
    for number, task in enumerate(tasks):
        chooser = random.Random(derive_seed("overlap", seed, task.name))
        order = chooser.sample(range(len(task.train)), len(task.train))
        half = round(len(order) * share / 2)
        early = set(order[:half]) if number > 0 else set()
        late = set(order[half : 2 * half]) if number < len(tasks) - 1 else set()
        for row, example in enumerate(task.train):
            parts[number - (row in early) + (row in late)].append(example)
    return [replace(task, train=tuple(part)) for task, part in zip(tasks, parts, strict=True)]


def complete(stream: Stream, tasks: Sequence[Task]) -> Stream:
    """Return the stream with the beginning of its prompts where a task is known by its file alone."""
    heads = {task.name: task.test[0].head for task in tasks}
    specs = tuple(spec if spec.head else replace(spec, head=heads[spec.name]) for spec in stream.specs)
    return stream if specs == stream.specs else replace(stream, specs=specs)


def _make_task(source: Source, spec: TaskSpec, selection: Selection, superni_metric: str) -> Task:
    balanced = bool(spec.labels)
    pool = usable_rows(spec, source.read(spec, "train"))
    validation = choose_rows(pool, selection.validation, derive_seed("validation", spec.data_name), balanced)
    asked = {row.passage for row in validation}
    pool = [row for row in pool if row.passage not in asked]
    if not pool or len(validation) < selection.validation:
        raise ClbenchError(
            f"task '{spec.name}': --validation {selection.validation} leaves nothing of its "
            f"{len(pool) + len(validation)} training rows"
        )
    train_seed = derive_seed("train", selection.seed, spec.data_name)
    limit = selection.limit_train
    if selection.train_per_class is not None:
        pool = choose_per_class(spec, pool, selection.train_per_class, train_seed)
    elif limit is None:
        limit = source.train_rows
    train = choose_rows(pool, limit, train_seed, balanced)
    close = released if selection.template == "release" else usual
    validated = tuple(question(close(spec, row), row, "train") for row in validation)
    tested = validated
    if selection.evaluate_on == "test":
        rows = _test_rows(source, spec, selection.limit_test)
        tested = tuple(question(close(spec, row), row, "test") for row in rows)
    chooser = random.Random(derive_seed("reference", selection.seed, spec.data_name))
    return Task(
        spec.name,
        tuple(
            close(spec, row).example(row.passage, chooser.choice(row.answers), id=row_id("train", row)) for row in train
        ),
        tested,
        validated,
        spec.labels,
        spec.metric_mixed or spec.metric if superni_metric == "mixed" else spec.metric,
        spec.further_metrics,
    )


def _test_rows(source: Source, spec: TaskSpec, limit: int | None) -> list[Row]:
    rows = usable_rows(spec, source.read(spec, "test"))
    seed = derive_seed("test", spec.data_name)
    if limit is None and source.test_per_class is not None:
        return choose_per_class(spec, rows, source.test_per_class, seed)
    return choose_rows(rows, limit, seed, bool(spec.labels))


def usual(spec: TaskSpec, row: Row) -> TaskSpec:
    """Return a task as it is: its own tail closes the prompt; where the task has no head, that of its file opens it."""
    return spec if row.head is None else replace(spec, head=row.head)


def released(spec: TaskSpec, row: Row) -> TaskSpec:
    """Return a task with the end of the prompt that the release has in a row, white space included.

    Raises:
        ClbenchError: the row's file does not have it.
    """
    if row.tail is None:
        raise ClbenchError(
            f"{row.place}: has no white space of its own before 'Answer:': --template release reads the rkif layout"
        )
    return replace(usual(spec, row), tail=row.tail)


def question(spec: TaskSpec, row: Row, split: str) -> Example:
    """Return a row of a split as an example whose every answer counts as right."""
    references = row.answers if len(row.answers) > 1 else ()
    return spec.example(row.passage, row.answers[0], references, row_id(split, row))


def row_id(split: str, row: Row) -> str:
    """Return the name of a row within its task: 'test:17', the rows of a file counted from 0."""
    return f"{split}:{row.number}"


def is_blank(spec: TaskSpec, row: Row) -> bool:
    """Return whether a row has no question or no answer (an empty text, or a mark in place of the label)."""
    return is_empty(row.passage) or all(map(is_empty, row.answers)) or row.answers[0] in spec.unlabelled


def usable_rows(spec: TaskSpec, rows: Sequence[Row]) -> list[Row]:
    """Return the rows without the blank ones (`clbench audit` counts those), and without empty texts among their answers.

    Raises:
        ClbenchError: an answer is not in the task's label set, or no row is left.
    """
    kept = [_with_answers(row) for row in rows if not is_blank(spec, row)]
    for row in kept:
        for answer in row.answers:
            if spec.labels and answer not in spec.labels:
                raise ClbenchError(f"{row.place}: answer '{answer}' is not in the label set ({', '.join(spec.labels)})")
    if not kept:
        place = rows[0].place if rows else f"task '{spec.name}'"
        raise ClbenchError(f"{place}: no row has both a question and an answer")
    return kept


def _with_answers(row: Row) -> Row:
    answers = tuple(answer for answer in row.answers if not is_empty(answer))
    return row if answers == row.answers else replace(row, answers=answers)


def choose_per_class(spec: TaskSpec, rows: Sequence[Row], limit: int, seed: int) -> list[Row]:
    """Return at most `limit` rows of each class, in the original order; free text is one class."""
    of_class = defaultdict(list)
    for index, row in enumerate(rows):
        of_class[row.answers[0] if spec.labels else ""].append(index)
    chooser = random.Random(seed)
    chosen = [index for name in sorted(of_class) for index in _draw(chooser, of_class[name], limit)]
    return [rows[index] for index in sorted(chosen)]


def _draw(chooser: random.Random, indices: list[int], limit: int) -> list[int]:
    return indices if len(indices) <= limit else chooser.sample(indices, limit)


def choose_rows(rows: Sequence[Row], limit: int | None, seed: int, balanced: bool = True) -> list[Row]:
    """Return at most `limit` rows in the original order: class-balanced as far as the classes reach, or drawn uniformly."""
    if limit is None or limit >= len(rows):
        return list(rows)
    chooser = random.Random(seed)
    if not balanced:
        return [rows[index] for index in sorted(chooser.sample(range(len(rows)), limit))]
    of_class = defaultdict(list)
    for index, row in enumerate(rows):
        of_class[row.answers[0]].append(index)
    for indices in of_class.values():
        chooser.shuffle(indices)
    chosen: list[int] = []
    while len(chosen) < limit:  # one round takes one row of each class that has some left
        for target in sorted(of_class):
            if of_class[target] and len(chosen) < limit:
                chosen.append(of_class[target].pop())
    return [rows[index] for index in sorted(chosen)]


def fingerprint(tasks: Sequence[Task]) -> str:
    """Return a digest of every prompt and answer and how it is scored, so that a record says on which data it was made."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps([task.name, *task.metrics]).encode())
        for split in (task.train, task.validation, task.test):
            rows = [(e.prompt, e.target, e.max_answer, *e.references) for e in split]
            digest.update(json.dumps(rows).encode())
    return digest.hexdigest()[:16]


def fingerprint_questions(tasks: Sequence[Task]) -> str:
    """Return a digest of the test rows, the same for every order of the tasks and every seed of a run."""
    by_name = sorted(tasks, key=lambda task: task.name)
    return fingerprint([replace(task, train=(), validation=()) for task in by_name])


def check_labels_round_trip(labels: Iterable[str], metric: Metric = exact_match) -> None:
    """Check that each label scores 100 against itself alone.

    Raises:
        ClbenchError: two labels are one to the metric.
    """
    names = list(labels)
    for label in names:
        twins = [other for other in names if metric(label, other) > FULL]
        if label not in twins:
            raise ClbenchError(f"label '{label}' does not score 100 against itself by the task's metric")
        if twins != [label]:
            raise ClbenchError(f"labels {twins} are the same answer after normalisation")
