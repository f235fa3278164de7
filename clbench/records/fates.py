"""What became of each question of a run: kept, forgotten and after which task, learned later, or never right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clbench.data.answer_scores import METRICS, Metric
from clbench.records.answers import Cells, scores_of
from clbench.records.record import Record

RIGHT = 50.0  # percent from which an answer counts as right; metrics that are all or nothing give 0 or 100
Fate = Literal["kept", "forgotten", "learned later", "never right"]
FATES: tuple[Fate, ...] = ("kept", "forgotten", "learned later", "never right")


@dataclass(frozen=True)
class Question:
    """A question's way through a run.

    Attributes:
        row: its number among the task's test rows in the run.
        id: its row in the task's data; empty in a record of clbench 0.1.
        right: whether the answer was right, by the number of the task learned last, from when its own task was learned.
        accepted: the answers that count as right.
        answers: what was answered, by the same numbers.
    """

    row: int
    id: str
    right: Mapping[int, bool]
    accepted: tuple[str, ...]
    answers: Mapping[int, str]

    @property
    def fate(self) -> Fate:
        """What became of it; 'kept' if it was right at first and at the end, whatever happened in between."""
        points = list(self.right.values())
        if points[-1]:
            return "kept" if points[0] else "learned later"
        return "forgotten" if any(points) else "never right"

    @property
    def lost_after(self) -> tuple[int, int] | None:
        """After which task a forgotten question was right for the last time, and after which it was asked next."""
        if self.fate != "forgotten":
            return None
        points = list(self.right)
        last = max(number for number, point in enumerate(points) if self.right[point])
        return points[last], points[last + 1]


def questions_of(record: Record, cells: Cells, known: Mapping[str, Metric] = METRICS) -> list[list[Question]]:
    """Return the questions of each task of a run.

    Raises:
        ClbenchError: the metric of a task is not known.
    """
    return [questions_of_task(record, number, cells, known) for number in range(len(record.tasks))]


def questions_of_task(
    record: Record, number: int, cells: Cells, known: Mapping[str, Metric] = METRICS
) -> list[Question]:
    """Return the questions of one task of a run, in their order.

    Raises:
        ClbenchError: the metric of the task is not known.
    """
    asked = {after: cells[after, number] for after in range(number, len(record.tasks)) if (after, number) in cells}
    metric = record.tasks[number].metric
    right = {after: [s >= RIGHT for s in scores_of(answers, metric, known)] for after, answers in asked.items()}
    return [
        Question(
            row,
            first.id,
            {after: marks[row] for after, marks in right.items()},
            first.accepted,
            {after: answers[row].text for after, answers in asked.items()},
        )
        for row, first in enumerate(next(iter(asked.values()), ()))
    ]


def count_fates(questions: Sequence[Question]) -> dict[Fate, int]:
    """Return how many questions had each fate."""
    return {fate: sum(question.fate == fate for question in questions) for fate in FATES}
