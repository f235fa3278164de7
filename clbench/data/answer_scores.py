"""Scores of answers, in percent: exact match, Rouge-L, token F1."""

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

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
    measure: float = _rouge().score(target, answer)["rougeL"].fmeasure
    return 100.0 * measure


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
