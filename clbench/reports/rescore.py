"""Everything that can be computed from a run's stored answers, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clbench.data.answer_scores import METRICS, Metric
from clbench.records import metrics
from clbench.records.answers import Cells, mean, row_scores
from clbench.records.record import Record
from clbench.reports.tables import Sheet
from clbench.settings import NOT_RECIPE

Scores = list[list[float | None]]
NORMALISATIONS = {
    "exact_match": "lower case, no punctuation, single spaces (clbench, O-LoRA)",
    "exact_match_lower": "lower case (the Recurrent-KIF release)",
    "exact_match_verbatim": "as it stands",
    "token_f1": "words in common, F1",
}


@dataclass(frozen=True)
class Measure:
    """One measure: its value in percent, none where cells are missing, which `note` then names; `recorded` is the record's."""

    name: str
    value: float | None
    recorded: float | None = None
    note: str = ""


def score_matrix(
    record: Record, cells: Cells, metric: str | None = None, known: Mapping[str, Metric] = METRICS
) -> Scores:
    """Return the score matrix from the answers.

    Args:
        metric: scores every task that is scored by exact match; none: each task's own.
    """
    tasks = record.tasks
    scores: Scores = [[None] * len(tasks) for _ in tasks]
    for (i, j), answers in cells.items():
        own = tasks[j].metric
        chosen = metric if metric is not None and own.startswith("exact_match") else own
        scores[i][j] = mean(row_scores(answers, chosen, known))
    return scores


def measures(
    record: Record,
    cells: Cells,
    alone: Sequence[Record],
    untrained: Record | None,
    known: Mapping[str, Metric] = METRICS,
) -> list[Measure]:
    """Return every measure of a run.

    Args:
        alone: records among which those of the run's tasks learned alone, by the same recipe, are looked for.
        untrained: a record of a run over the same tasks that trained nothing; its last row are the zero-shot scores.
    """
    scores = score_matrix(record, cells, known=known)
    recorded = record.metrics
    bwt, over_all = metrics.backward_transfer(scores), metrics.backward_transfer_over_all(scores)
    without = "" if bwt is not None else _missing_diagonal(record, scores)
    gained = metrics.transfer_to_unlearned(scores, record.untrained)
    return [
        Measure("OP", metrics.overall_performance(scores), recorded.op, "mean over tasks"),
        Measure("OP over rows", _over_rows(record, cells, known), None, "every row counts once (O-LoRA's logs)"),
        Measure("BWT", bwt, recorded.bwt, without or "over T-1 tasks"),
        Measure("BWT over T", over_all, None, without or "divided by T (SAPT's and GainLoRA's scorer)"),
        Measure("forgetting", metrics.forgetting(scores), recorded.forgetting, without or _seen_cells(scores)),
        Measure(
            "FWT, not yet learned",
            gained,
            recorded.fwt,
            "before learning - before any learning (Lopez-Paz & Ranzato)"
            if gained is not None
            else "`--matrix full` asks for it",
        ),
        _forward(
            "FWT, single task", record, scores, _scores_alone(record, alone), "no record of {} alone by this recipe"
        ),
        _forward(
            "FWT, zero-shot", record, scores, _zero_shot(record, untrained), "no zero-shot score of {} (--zero-shot)"
        ),
    ]


def _over_rows(record: Record, cells: Cells, known: Mapping[str, Metric]) -> float | None:
    end = len(record.tasks) - 1
    rows = [row_scores(cells[end, j], task.metric, known) for j, task in enumerate(record.tasks) if (end, j) in cells]
    return mean([score for scores in rows for score in scores]) if len(rows) == end + 1 else None


def _missing_diagonal(record: Record, scores: Scores) -> str:
    names = [task.name for j, task in enumerate(record.tasks[:-1]) if scores[j][j] is None]
    if not names:
        return "of one task there is none" if len(scores) == 1 else "the last row is not complete"
    return f"not asked right after learning: {_few(names)}"


def _seen_cells(scores: Scores) -> str:
    size = len(scores)
    lower = all(scores[i][j] is not None for i in range(size) for j in range(i + 1))
    return "best of all earlier scores" if lower else "best of the scores asked for; `--matrix lower` asks for all"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _forward(name: str, record: Record, scores: Scores, before: list[float | None], lack: str) -> Measure:
    missing = [task.name for task, value in zip(record.tasks, before, strict=True) if value is None]
    if missing:
        return Measure(name, None, None, lack.format(_few(missing)))
    value = metrics.forward_transfer(scores, before)
    kind = "learned - learned alone (SAPT)" if "single" in name else "learned - before any learning (AimMerging)"
    return Measure(name, value, None, kind if value is not None else _missing_diagonal(record, scores))


def _scores_alone(record: Record, alone: Sequence[Record]) -> list[float | None]:
    """Return the score of each task learned alone: of the same seed, else the mean over seeds."""
    recipe = _recipe(record)
    found: list[float | None] = []
    for task in record.tasks:
        same = [
            other
            for other in alone
            if [(one.name, one.version, one.test) for one in other.tasks] == [(task.name, task.version, task.test)]
            and other.method.about.learns_plainly
            and _recipe(other) == recipe
        ]
        of_seed = [other for other in same if other.seed == record.seed] or same
        values = [score for other in of_seed if (score := other.scores[-1][-1]) is not None]
        found.append(mean(values) if values else None)
    return found


def _recipe(record: Record) -> dict[str, Any]:
    kept = {name: value for name, value in record.all_settings.items() if name not in NOT_RECIPE}
    return {**kept, "protocol_version": record.protocol_version}


def _zero_shot(record: Record, untrained: Record | None) -> list[float | None]:
    if untrained is None:
        return [None] * len(record.tasks)
    last = {task.name: score for task, score in zip(untrained.tasks, untrained.scores[-1], strict=True)}
    return [last.get(task.name) for task in record.tasks]


def normalisations(record: Record, cells: Cells, known: Mapping[str, Metric] = METRICS) -> list[dict[str, Any]]:
    """Return OP and BWT under each way to compare an answer with its target; empty if no task is scored by exact match."""
    if not any(task.metric.startswith("exact_match") for task in record.tasks):
        return []
    found = []
    for metric, meaning in NORMALISATIONS.items():
        scores = score_matrix(record, cells, metric, known)
        op, bwt = metrics.overall_performance(scores), metrics.backward_transfer(scores)
        found.append({"metric": metric, "op": op, "bwt": bwt, "meaning": meaning})
    return found


def rescore_sheets(found: Sequence[Measure], variants: Sequence[Mapping[str, Any]], title: str) -> list[Sheet]:
    """Return the measures and the normalisations as tables for people."""
    lines = [[one.name, _two(one.value), _two(one.recorded), one.note] for one in found]
    sheets = [Sheet(title, ["Measure", "From the answers", "Recorded", "What it is"], lines)]
    if variants:
        rows = [[one["metric"], _two(one["op"]), _two(one["bwt"]), one["meaning"]] for one in variants]
        sheets.append(
            Sheet("Exact match under other normalisations", ["Metric", "OP", "BWT", "An answer counts by"], rows)
        )
    return sheets


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
