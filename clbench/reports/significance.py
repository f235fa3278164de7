"""The standing of the leaderboard's rows: which differences are more than chance, from the stored answers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clbench.errors import ClbenchError, ClbenchWarning
from clbench.records.answers import read_answers, row_scores
from clbench.records.bootstrap import Numbers, ScoredRun, Standing, compare_methods
from clbench.records.files import RunFiles
from clbench.records.record import Record
from clbench.reports.leaderboard import Row


def assess(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Return the rows with their standing among the rows that share stream, recipe and test rows.

    A row of which a record's answers are missing or not its own has none; a `ClbenchWarning` says so.
    """
    boards: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.op is not None:
            boards[row.board].append(number)
    standings: dict[int, Standing] = {}
    for numbers in boards.values():
        methods = {number: runs for number in numbers if (runs := _scored_runs(rows[number], folder))}
        ranked = [not rows[number].records[0].method.about.upper_bound for number in methods]  # shown, not ranked
        standings |= dict(zip(methods, compare_methods(list(methods.values()), ranked), strict=True))
    return [replace(row, standing=standings.get(number)) for number, row in enumerate(rows)]


def _scored_runs(row: Row, folder: Path) -> list[ScoredRun]:
    try:
        return [scored_run(record, folder) for record in row.records]
    except ClbenchError as error:
        warnings.warn(f"no interval and no rank of {row.label}: {error}", ClbenchWarning, stacklevel=3)
        return []


def scored_run(record: Record, folder: Path) -> ScoredRun:
    """Return a record's score of every row, from its answers in the same folder."""
    cells = read_answers(record, RunFiles(folder, record.name).answers)
    tasks = record.tasks
    end = len(tasks) - 1

    def scores(i: int, j: int) -> Numbers:
        return np.array(row_scores(cells[i, j], tasks[j].metric))

    last = {task.name: scores(end, j) for j, task in enumerate(tasks)}
    learned = {task.name: scores(j, j) for j, task in enumerate(tasks[:end]) if (j, j) in cells}
    return ScoredRun((record.stream.name, record.seed), last, learned)
