"""Scores of answers, and the continual-learning measures of a score matrix.

A score matrix is a list of rows, percent: `scores[i][j]` is the score on task j after learning task i, None where it was
not measured. Definitions and fixtures: protocol of the benchmark (OP, BWT: Lopez-Paz & Ranzato 2017; forgetting:
Chaudhry et al. 2018).
"""

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

Row = Sequence[float | None]
Matrix = Sequence[Row]
Metric = Callable[[str, str], float]  # (answer, one right answer) -> percent

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower the case, remove punctuation, collapse white space; articles stay."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def exact_match(answer: str, target: str) -> float:
    """Return 100 where both agree after `normalise` (lower case, no punctuation, single spaces), else 0."""
    return 100.0 if normalise(answer) == normalise(target) else 0.0


def exact_match_lower(answer: str, target: str) -> float:
    """Return 100 where both agree but for case and outer white space (the Recurrent-KIF release), else 0."""
    return 100.0 if answer.strip().lower() == target.strip().lower() else 0.0


def exact_match_verbatim(answer: str, target: str) -> float:
    """Return 100 where both agree but for outer white space, else 0."""
    return 100.0 if answer.strip() == target.strip() else 0.0


def token_f1(answer: str, target: str) -> float:
    """Return the F1 of the words that both share after `normalise`, in percent (Rajpurkar et al. 2016; articles stay)."""
    given, wanted = normalise(answer).split(), normalise(target).split()
    if not given or not wanted:
        return 100.0 if given == wanted else 0.0
    return 200.0 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))


def rouge_l(answer: str, target: str) -> float:
    """Return the F-measure of Rouge-L with Porter's stemmer, in percent (Lin 2004; the `rouge-score` package)."""
    return 100.0 * _rouge().score(target, answer)["rougeL"].fmeasure


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # here: slow to import

    return RougeScorer(["rougeL"], use_stemmer=True)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {metric.__name__: metric for metric in (exact_match, exact_match_lower, exact_match_verbatim, rouge_l, token_f1)}
)


def score_answers(
    metric: str,
    answers: Sequence[str],
    targets: Sequence[str | Sequence[str]],
    known: Mapping[str, Metric] = METRICS,
) -> float:
    """Return the mean score of the answers, in percent; of several right answers the one that scores best counts.

    Args:
        targets: for each answer the right one, or all that are right.

    Raises:
        ValueError: the numbers of answers and targets differ.
    """
    score = known[metric]
    total = 0.0
    for answer, target in zip(answers, targets, strict=True):
        accepted = (target,) if isinstance(target, str) else target
        total += max(score(answer, one) for one in accepted)
    return total / len(targets)


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
