"""Scores of answers, and the continual-learning measures of a score matrix.

A score matrix is a list of rows, percent: `scores[i][j]` is the score on task j after learning task i, None where it was
not measured. Definitions and fixtures: protocol of the benchmark (OP, BWT: Lopez-Paz & Ranzato 2017; forgetting:
Chaudhry et al. 2018).
"""

import string
from collections.abc import Callable, Sequence

Row = Sequence[float | None]
Matrix = Sequence[Row]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower the case, remove punctuation, collapse white space; articles stay."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def exact_match(answer: str, target: str) -> float:
    """Return 100 where answer and target agree after `normalise`, else 0."""
    return 100.0 if normalise(answer) == normalise(target) else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match}


def score_answers(metric: str, answers: Sequence[str], targets: Sequence[str]) -> float:
    """Return the mean score of the answers, in percent.

    Raises:
        ValueError: the numbers of answers and targets differ.
    """
    score = METRICS[metric]
    return sum(score(answer, target) for answer, target in zip(answers, targets, strict=True)) / len(targets)


def overall_performance(scores: Matrix) -> float | None:
    """Return OP: the unweighted mean over tasks of the score after the last task."""
    last = [value for value in scores[-1] if value is not None]
    return sum(last) / len(last) if len(last) == len(scores[-1]) else None


def backward_transfer(scores: Matrix) -> float | None:
    """Return BWT: the mean over the first T-1 tasks of (score at the end - score right after learning)."""
    return _mean_over_old_tasks(scores, lambda j: _difference(scores[-1][j], scores[j][j]))


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
