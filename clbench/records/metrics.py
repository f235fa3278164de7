"""Scores of answers, and the continual-learning measures of a score matrix.

A score matrix is a list of rows, percent: `scores[i][j]` is the score on task j after learning task i, None where it was
not measured. Definitions and fixtures: protocol of the benchmark (OP, BWT: Lopez-Paz & Ranzato 2017; forgetting:
Chaudhry et al. 2018).
"""

from collections.abc import Callable, Sequence

Row = Sequence[float | None]
Matrix = Sequence[Row]


def overall_performance(scores: Matrix) -> float | None:
    """Return OP: the unweighted mean over tasks of the score after the last task."""
    last = [value for value in scores[-1] if value is not None]
    return sum(last) / len(last) if len(last) == len(scores[-1]) else None


def backward_transfer(scores: Matrix) -> float | None:
    """Return BWT: the mean over the first T-1 tasks of (score at the end - score right after learning)."""
    return _mean_over_old_tasks(scores, lambda j: _difference(scores[-1][j], scores[j][j]))


def backward_transfer_over_all(scores: Matrix) -> float | None:
    """Return BWT divided by T instead of T-1, as the released scorer of SAPT and GainLoRA does; the last task adds zero."""
    over_old = backward_transfer(scores)
    return None if over_old is None else over_old * (len(scores) - 1) / len(scores)


def forward_transfer(scores: Matrix, before: Row) -> float | None:
    """Return FWT: the mean over tasks of (score right after learning - a score without the earlier tasks).

    Args:
        before: that score of each task: of a model trained on the task alone (SAPT), or not at all (AimMerging).
    """
    gains = [_difference(scores[j][j], value) for j, value in enumerate(before)]
    known = [gain for gain in gains if gain is not None]
    return sum(known) / len(known) if len(known) == len(gains) else None


def transfer_to_unlearned(scores: Matrix, untrained: Row) -> float | None:
    """Return FWT: the mean over the last T-1 tasks of (score just before learning it - score of the untrained model).

    This is Lopez-Paz & Ranzato's (2017): what earlier tasks do for one that was not learned yet.
    """
    if len(untrained) != len(scores):
        return None
    gains = [_difference(scores[j - 1][j], untrained[j]) for j in range(1, len(scores))]
    known = [gain for gain in gains if gain is not None]
    return sum(known) / len(known) if known and len(known) == len(gains) else None


def forgetting(scores: Matrix) -> float | None:
    """Return F: the mean over the first T-1 tasks of (best earlier score - score at the end).

    The best is taken over the rows that were measured before the last one, from the task's own row on.
    """

    def fall(j: int) -> float | None:
        earlier = [row[j] for row in scores[j:-1] if row[j] is not None]
        return _difference(max(earlier), scores[-1][j]) if earlier else None  # type: ignore[type-var]

    return _mean_over_old_tasks(scores, fall)


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _mean_over_old_tasks(scores: Matrix, value: Callable[[int], float | None]) -> float | None:
    values = [value(j) for j in range(len(scores) - 1)]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def cells_to_evaluate(matrix: str, after: int, tasks: int) -> list[int]:
    """Return the tasks to evaluate after learning task `after` (both from 0), for a `--matrix` choice."""
    if matrix == "full":
        return list(range(tasks))
    if matrix == "lower" or after == tasks - 1:
        return list(range(after + 1))
    return [after] if matrix == "bwt" else []
