"""The stored answers of a run (`NAME.answers.jsonl`, or compressed by gzip): read, and scored again without a model."""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from clbench.atomic import read_file
from clbench.data.answer_scores import METRICS, Metric, score_each, takes_prompt
from clbench.errors import ClbenchError, unknown
from clbench.records.record import Record


@dataclass(frozen=True)
class Answer:
    """What was answered to one question, every answer that counts as right, the question's id, and the answer's score.

    A file of an earlier clbench has no ids (empty texts) and no scores (none).
    """

    text: str
    accepted: tuple[str, ...]
    id: str = ""
    score: float | None = None


class AnswerRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the answers file: the answer to a task's test row `row` after learning task `after` (a number).

    `id` is the row's place in the task's data ('test:17'), the same in every run; `score` is by the task's metric, percent.
    """

    after: int
    task: str
    row: int
    answer: str
    target: str
    references: tuple[str, ...] = ()
    id: str = ""
    score: float | None = None


Cells = Mapping[
    tuple[int, int], Sequence[Answer]
]  # (after learning task i, task j) -> the answers, in the order of rows


def answers_path(record_path: Path) -> Path:
    """Return where the answers of a record lie."""
    return record_path.with_name(record_path.name.removesuffix(".json") + ".answers.jsonl")


def compressed(path: Path) -> Path:
    """Return where the answers of this file's name lie once `gzip` has compressed it."""
    return path.with_name(f"{path.name}.gz")


def stored(path: Path) -> Path:
    """Return the file that the answers of this file's name are in: this, or the compressed one where only that is there."""
    return path if path.exists() or not compressed(path).exists() else compressed(path)


def read_answers(record: Record, path: Path) -> Cells:
    """Return the answers of each evaluated cell, from the file or, where it is not there, from its compressed one (`.gz`).

    Raises:
        ClbenchError: no such file, or one that does not belong to the record.
    """
    numbers = {task.name: number for number, task in enumerate(record.tasks)}
    cells: dict[tuple[int, int], dict[int, Answer]] = defaultdict(dict)
    lines = answer_bytes(path).split(b"\n")  # not by characters: U+2028 would end a line too
    for number, line in enumerate(filter(None, lines), 1):
        try:
            row = msgspec.json.decode(line, type=AnswerRow)
            accepted = row.references or (row.target,)
            cells[row.after, numbers[row.task]][row.row] = Answer(row.answer, accepted, row.id, row.score)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError) as error:
            raise ClbenchError(f"{path}: line {number} is no answer of this record: {error!r}") from None
    _check_complete(record, cells, path)
    return {cell: [rows[row] for row in sorted(rows)] for cell, rows in cells.items()}


def answer_bytes(path: Path) -> bytes:
    """Return the content of an answers file, uncompressed.

    Raises:
        ClbenchError: no such file, nor a compressed one, or one that cannot be read.
    """
    found = stored(path)
    try:
        return read_file(found) if found == path else gzip.decompress(read_file(found))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ClbenchError(f"{found}: no whole gzip file: {error}") from None
    except OSError:
        raise ClbenchError(f"no answers '{path}' beside the record; scoring again needs them") from None


def _check_complete(record: Record, cells: Mapping[tuple[int, int], Mapping[int, Answer]], path: Path) -> None:
    on_validation = record.setting("evaluate_on") == "validation"
    for i, row in enumerate(record.scores):
        for j, score in enumerate(row):
            if score is None:
                continue
            found = len(cells.get((i, j), ()))
            wanted = record.tasks[j].validation if on_validation else record.tasks[j].test
            if not found or (wanted is not None and found != wanted):
                asked = "" if wanted is None else f"{wanted} "
                raise ClbenchError(
                    f"{path}: {found} answers to the {asked}questions of task {j + 1} after task {i + 1}"
                )


def row_scores(answers: Sequence[Answer], metric: str, known: Mapping[str, Metric] = METRICS) -> list[float]:
    """Return the score of each answer, in percent; by a metric that takes the question, which no answer has, the stored one.

    Raises:
        ClbenchError: no such metric, or a stored score is missing.
    """
    if metric not in known:
        raise unknown("metric", metric, known)
    if not takes_prompt(known[metric]):
        return score_each(metric, [answer.text for answer in answers], [answer.accepted for answer in answers], known)
    stored = [answer.score for answer in answers if answer.score is not None]
    if len(stored) < len(answers):
        raise ClbenchError(f"metric '{metric}' takes the question, and of some answers no score is stored")
    return stored


def scores_of(answers: Sequence[Answer], metric: str, known: Mapping[str, Metric] = METRICS) -> list[float]:
    """Return the score of each answer, in percent; by a metric that is not known here, the stored one.

    Raises:
        ClbenchError: the metric is not known, and no score is stored.
    """
    stored = [answer.score for answer in answers if answer.score is not None]
    return stored if metric not in known and len(stored) == len(answers) else row_scores(answers, metric, known)


def mean(values: Sequence[float]) -> float:
    """Return the mean of scores as a run computes it: their sum in order over their number."""
    return sum(values) / len(values)
