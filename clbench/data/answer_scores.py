"""Scores of answers, in percent: exact match, Rouge-L, token F1. What is empty is no answer, and scores nothing."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from clbench.data.text_forms import as_seen, is_empty, normalise, without_case, words
from clbench.errors import ClbenchError, one_line

Metric = Callable[[str, str], float]  # (answer, one right answer) -> percent


def exact_match(answer: str, target: str) -> float:
    """Return 100 where both agree after `normalise` (lower case, no punctuation, single spaces), else 0.

    Where nothing is left of the target (a label '?'), they must agree but for case and outer white space.
    """
    wanted = normalise(target)
    if not wanted:
        return exact_match_lower(answer, target)
    return 100.0 if normalise(answer) == wanted else 0.0


def exact_match_lower(answer: str, target: str) -> float:
    """Return 100 where both agree but for case and outer white space (the Recurrent-KIF release), else 0."""
    return 100.0 if without_case(answer) == without_case(target) and not is_empty(target) else 0.0


def exact_match_verbatim(answer: str, target: str) -> float:
    """Return 100 where both look the same but for outer white space, else 0."""
    return 100.0 if as_seen(answer) == as_seen(target) and not is_empty(target) else 0.0


def token_f1(answer: str, target: str) -> float:
    """Return the F1 of the words that both share after `normalise`, in percent (Rajpurkar et al. 2016; articles stay)."""
    given, wanted = normalise(answer).split(), normalise(target).split()
    if not given or not wanted:
        return exact_match(answer, target)
    return 200.0 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))


def rouge_l(answer: str, target: str) -> float:
    """Return the F-measure of Rouge-L with Porter's stemmer, in percent (Lin 2004), over the words of any script.

    On ASCII it equals `rouge_l_ascii`; of Chinese, Japanese and Thai each letter is a word; of texts without words, all counts.
    """
    if not words(target):
        return exact_match(answer, target)
    return 100.0 * float(_rouge(ascii_only=False).score(target, answer)["rougeL"].fmeasure)


def rouge_l_ascii(answer: str, target: str) -> float:
    """Return the same over ASCII words alone, as the papers compute it (the `rouge-score` package): SuperNI's protocol."""
    return 100.0 * float(_rouge(ascii_only=True).score(target, answer)["rougeL"].fmeasure)


@cache
def _rouge(ascii_only: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # here: slow to import
    from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

    usual = DefaultTokenizer(use_stemmer=True)

    class Words(Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            return [usual.tokenize(word)[0] if word.isascii() else word for word in words(text)]

    return RougeScorer(["rougeL"], tokenizer=usual if ascii_only else Words())


FULL = 99.9  # percent: a right answer, rounding aside


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.__name__: metric
        for metric in (exact_match, exact_match_lower, exact_match_verbatim, rouge_l, rouge_l_ascii, token_f1)
    }
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
        ClbenchError: the metric fails, or returns something else than a percentage.
    """
    score, total = known[metric], 0.0
    for answer, target in zip(answers, targets, strict=True):
        accepted = (target,) if isinstance(target, str) else target
        total += 0.0 if is_empty(answer) else max(_score(metric, score, answer, one) for one in accepted)
    return total / len(targets)


def _score(name: str, metric: Metric, answer: str, target: str) -> float:
    """Return one score; an empty text among the right ones is none."""
    if is_empty(target):
        return 0.0
    try:
        score = float(metric(answer, target))
    except Exception as error:  # a plugin's metric may raise anything
        raise ClbenchError(f"metric '{name}' ({_place(metric)}) failed: {one_line(error)}") from error
    if not 0 <= score <= 100:
        raise ClbenchError(
            f"metric '{name}' ({_place(metric)}) scores the answer {answer[:40]!r} with {score:g}; "
            f"a score is a percentage, 0 to 100"
        )
    return score


def _place(metric: Metric) -> str:
    """Return where a metric comes from: its file, as far as that is known."""
    try:
        return inspect.getsourcefile(metric) or repr(metric)
    except TypeError:
        return repr(metric)


def lost_answers(metric: Metric, answers: Sequence[str], back: Sequence[str]) -> list[tuple[str, str]]:
    """Return each answer that would not be right as it comes `back` from a tokenizer, with that."""
    pairs = dict.fromkeys(zip(answers, back, strict=True))
    return [(answer, text) for answer, text in pairs if is_empty(text) or metric(text, answer) < FULL]


def lost_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Return lost answers in words."""
    answer, text = pairs[0]
    return f"{answer!r}, which comes back as {text!r}" + (f", and {len(pairs) - 1} more" if len(pairs) > 1 else "")
