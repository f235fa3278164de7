"""Forgetting explained from stored answers: what is answered now to the questions that were right once, and who took them.

A question is *lost* where the answer right after learning its task was right, and the one after the last task is wrong. What
stands in its place is a label of another task (the format is forgotten), a wrong label of its own task, or free text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Literal

from clbench.data.answer_scores import FULL, METRICS, Metric
from clbench.data.text_forms import is_empty
from clbench.errors import ClbenchError
from clbench.records.answers import Cells
from clbench.records.fates import Question, questions_of_task
from clbench.records.record import Record, TaskInfo
from clbench.reports.tables import Sheet

Kind = Literal["other task", "own label", "free text"]
Classify = Callable[
    [str, str], tuple[Kind, str | None]
]  # of a task's name and an answer: its kind, and whose label it is
KINDS: Mapping[Kind, str] = {
    "other task": "a label of another task",
    "own label": "a wrong label of its own task",
    "free text": "free text, or nothing",
}


@dataclass(frozen=True)
class LostQuestion:
    """A question that was right after learning its task, and is wrong after the last one.

    Attributes:
        row: its number among the task's questions in the run.
        id: its row in the task's data; empty in a record of clbench 0.1.
        of: the other task whose label the answer is, the one learned last where it is of several; else none.
        by: the task after whose learning it was wrong and stayed so; none where the answers before and after it are not stored.
        still_known: whether it is right when one of the task's labels must be the answer; none: not asked.
    """

    row: int
    id: str
    target: str
    answer: str
    kind: Kind
    of: str | None
    by: str | None
    still_known: bool | None = None


@dataclass(frozen=True)
class TaskForgetting:
    """What became of a task's questions.

    Attributes:
        asked: how many there are.
        right: of those, right after learning the task.
        gained: wrong after learning the task, right after the last one.
        lost: the lost ones.
        labels: how many labels the task has.
    """

    task: str
    asked: int
    right: int
    gained: int
    lost: tuple[LostQuestion, ...]
    labels: int

    def count(self, kind: Kind) -> int:
        """Return how many lost questions have an answer of a kind."""
        return sum(question.kind == kind for question in self.lost)

    @property
    def labels_of(self) -> dict[str, int]:
        """The other tasks whose labels stand in the place of right answers, and how often."""
        return _counts(question.of for question in self.lost)

    @property
    def lost_by(self) -> dict[str, int]:
        """The tasks that took the lost questions, as far as that is stored, and how many."""
        return _counts(question.by for question in self.lost)

    @property
    def still_known(self) -> int | None:
        """How many lost questions are right among the labels; none: they were not all asked."""
        answers = [question.still_known for question in self.lost]
        return None if None in answers else answers.count(True)

    def as_dict(self) -> dict[str, Any]:
        """Return this as plain values."""
        numbers = {
            "task": self.task,
            "asked": self.asked,
            "right": self.right,
            "gained": self.gained,
            "lost": len(self.lost),
        }
        kinds = {kind.replace(" ", "_"): self.count(kind) for kind in KINDS}
        return {**numbers, **kinds, "still_known": self.still_known, "by_chance": len(self.lost) / self.labels}


@dataclass(frozen=True)
class Explanation:
    """The forgetting of a run, task by task in the order of learning, the last task aside; `left_out` says why others are not."""

    tasks: Sequence[TaskForgetting]
    left_out: Sequence[str] = ()


def explain(record: Record, cells: Cells, known: Mapping[str, Metric] = METRICS) -> Explanation:
    """Return what a run's stored answers tell of its forgetting.

    Raises:
        ClbenchError: they tell of no task.
    """
    labels = {task.name: _labels_of(task, number, cells) for number, task in enumerate(record.tasks)}
    classify = _classifier(record.tasks, labels, known)
    end, found, left_out = len(record.tasks) - 1, [], []
    for number, task in enumerate(record.tasks[:end]):
        if not labels[task.name]:
            left_out.append(f"{task.name}: free text has no labels")
        elif (number, number) not in cells or (end, number) not in cells:
            left_out.append(f"{task.name}: not asked right after learning it, or not at the end")
        else:
            questions = questions_of_task(record, number, cells, known)
            found.append(_of_task(record.tasks, number, questions, len(labels[task.name]), classify))
    if not found:
        raise ClbenchError(
            f"the answers of '{record.name}' tell nothing of forgetting ({'; '.join(left_out) or 'one task'})"
        )
    return Explanation(found, left_out)


def _labels_of(task: TaskInfo, number: int, cells: Cells) -> tuple[str, ...]:
    """Return a task's labels; where an old record does not say, the right answers that its questions have."""
    if task.labels is not None:
        return task.labels
    if not task.metric.startswith("exact_match"):
        return ()
    answers = next((answers for (_, j), answers in cells.items() if j == number), ())
    return tuple(dict.fromkeys(answer.accepted[0] for answer in answers))


def _classifier(
    tasks: Sequence[TaskInfo], labels: Mapping[str, Sequence[str]], known: Mapping[str, Metric]
) -> Classify:
    """Return a function from a task's name and an answer to the answer's kind, and the other task whose label it is."""
    metrics = {task.name: known.get(task.metric, METRICS["exact_match"]) for task in tasks}

    def is_label(text: str, task: str) -> bool:
        return any(metrics[task](text, label) >= FULL for label in labels[task])

    @cache
    def classify(own: str, text: str) -> tuple[Kind, str | None]:
        if is_empty(text):
            return "free text", None
        if is_label(text, own):
            return "own label", None
        other = next((task.name for task in reversed(tasks) if task.name != own and is_label(text, task.name)), None)
        return ("free text", None) if other is None else ("other task", other)

    return classify


def _of_task(
    tasks: Sequence[TaskInfo], number: int, questions: Sequence[Question], labels: int, classify: Classify
) -> TaskForgetting:
    """Return what became of the questions of one of the tasks."""
    own, end, lost = tasks[number].name, len(tasks) - 1, []
    for question in questions:
        if question.lost_after is None or not question.right[number]:
            continue
        before, after = question.lost_after
        kind, of = classify(own, question.answers[end])
        by = tasks[after].name if after == before + 1 else None
        lost.append(LostQuestion(question.row, question.id, question.accepted[0], question.answers[end], kind, of, by))
    right = sum(question.right[number] for question in questions)
    gained = sum(question.right[end] and not question.right[number] for question in questions)
    return TaskForgetting(own, len(questions), right, gained, tuple(lost), labels)


def with_second_answers(explanation: Explanation, right: Mapping[str, Sequence[bool]]) -> Explanation:
    """Return the explanation with whether each lost question, in their order by task, is right among the labels."""
    tasks = [
        replace(
            one, lost=tuple(replace(q, still_known=known) for q, known in zip(one.lost, right[one.task], strict=True))
        )
        for one in explanation.tasks
    ]
    return replace(explanation, tasks=tasks)


def explanation_values(explanation: Explanation, nested: bool) -> list[dict[str, Any]]:
    """Return an explanation as plain rows, one a task.

    Args:
        nested: with the tasks that the labels are of, those that took the questions, and every lost question.
    """
    rows = []
    for one in explanation.tasks:
        questions = [asdict(question) for question in one.lost]
        more = {"labels_of": one.labels_of, "lost_by": one.lost_by, "questions": questions}
        rows.append({**one.as_dict(), **(more if nested else {})})
    return rows


def _counts(names: Iterable[str | None]) -> dict[str, int]:
    """Return how often each name is there, the most frequent first."""
    return dict(Counter(name for name in names if name is not None).most_common())


def explanation_sheets(explanation: Explanation, title: str) -> list[Sheet]:
    """Return an explanation as tables for people: what stands in the place of right answers, and who took them."""
    tasks = explanation.tasks
    again = any(one.still_known is not None and one.lost for one in tasks)
    header = ["Task", "Right once", "Lost", "Gained", "Other task's label", "Wrong label", "Free text", "Mostly of"]
    lines = []
    for one in tasks:
        numbers = [one.right, len(one.lost), one.gained, *(one.count(kind) for kind in KINDS)]
        line = [one.task, *map(str, numbers), next(iter(one.labels_of), "-")]
        known = "-" if one.still_known is None else f"{one.still_known} (chance {len(one.lost) / one.labels:.0f})"
        lines.append([*line, *([known] if again else [])])
    notes = [f"left out: {reason}" for reason in explanation.left_out]
    notes.append("Lost: right after learning its task, wrong at the end. Gained: the other way round.")
    if again:
        header.append("Still known")
        notes.append("Still known: lost questions that are right where one of the task's labels must be the answer.")
    sheets = [Sheet(title, header, lines, left=(0, 7), notes=notes)]
    if all(question.by is not None for one in tasks for question in one.lost):
        return [*sheets, _takers(tasks)]
    notes.append("By which task each was lost is not stored: `--matrix lower` asks after every task.")
    return sheets


def _takers(tasks: Sequence[TaskForgetting]) -> Sheet:
    """Return how many questions of each task (row) were lost by learning a later one (column)."""
    takers = list(dict.fromkeys([*(one.task for one in tasks[1:]), *(name for one in tasks for name in one.lost_by)]))
    lines = [[one.task, *(str(one.lost_by.get(name, 0)) for name in takers)] for one in tasks]
    return Sheet("Lost by learning", ["Task", *takers], lines, left=(0,))
