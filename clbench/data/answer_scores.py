"""Scores of answers, in percent, by the names that a stream calls them by. What is empty is no answer, and scores nothing."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from clbench.data.text_forms import as_seen, is_empty, normalise, without_case, words
from clbench.data.text_scores import (
    bleu_1,
    bleu_1_rest,
    bleu_4,
    bleu_4_rest,
    code_similarity,
    edit_similarity,
    first_character,
    rouge_l_rest,
    rouge_l_spaces,
    sari,
)
from clbench.errors import ClbenchError, one_line

# (answer, one right answer) -> percent; one with a third parameter `prompt` is handed the question, too (`sari`)
Metric = Callable[..., float]


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


METRICS: Mapping[str, Metric] = MappingProxyType({
    metric.__name__: metric
    for metric in (
        exact_match, exact_match_lower, exact_match_verbatim, rouge_l, rouge_l_ascii, token_f1, rouge_l_spaces, bleu_1, bleu_4,
        rouge_l_rest, bleu_1_rest, bleu_4_rest, sari, first_character, edit_similarity, code_similarity,
    )
})  # fmt: skip


def takes_prompt(metric: Metric) -> bool:
    """Return whether a metric is handed the question beside the answer and a right one: it has a parameter `prompt`."""
    try:
        return "prompt" in inspect.signature(metric).parameters
    except (TypeError, ValueError):  # of something built in, nothing is known
        return False


def score_answers(
    metric: str,
    answers: Sequence[str],
    targets: Sequence[str | Sequence[str]],
    known: Mapping[str, Metric] = METRICS,
    prompts: Sequence[str] = (),
) -> float:
    """Return the mean score of the answers, in percent; of several right answers the one that scores best counts.

    Args:
        targets: for each answer the right one, or all that are right.
        prompts: for each answer the question, for a metric that takes it.

    Raises:
        ValueError: the numbers of answers and targets differ.
        ClbenchError: the metric fails, or returns something else than a percentage.
    """
    scores = score_each(metric, answers, targets, known, prompts)
    return sum(scores) / len(scores)


def score_each(
    metric: str,
    answers: Sequence[str],
    targets: Sequence[str | Sequence[str]],
    known: Mapping[str, Metric] = METRICS,
    prompts: Sequence[str] = (),
) -> list[float]:
    """Return the score of each answer, in percent; arguments and errors as `score_answers`."""
    score = known[metric]
    if takes_prompt(score) and len(prompts) != len(answers):
        raise ValueError(f"metric '{metric}' takes the questions, one an answer")
    questions: Sequence[tuple[str, ...]] = (
        [(prompt,) for prompt in prompts] if takes_prompt(score) else [()] * len(answers)
    )
    found = []
    for answer, target, question in zip(answers, targets, questions, strict=True):
        accepted = (target,) if isinstance(target, str) else target
        nothing = is_empty(answer)
        found.append(0.0 if nothing else max(_score(metric, score, answer, one, question) for one in accepted))
    return found


def _score(name: str, metric: Metric, answer: str, target: str, question: tuple[str, ...]) -> float:
    """Return one score; an empty text among the right ones is none."""
    if is_empty(target):
        return 0.0
    try:
        score = float(metric(answer, target, *question))
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
    """Return each answer that would not be right as it comes `back` from a tokenizer, with that.

    One that comes back as it was is not lost, whatever its metric gives a text that is short (BLEU of four words).
    """
    agrees = exact_match if takes_prompt(metric) else metric
    pairs = dict.fromkeys(zip(answers, back, strict=True))
    return [
        (answer, text)
        for answer, text in pairs
        if is_empty(text) or (as_seen(text) != as_seen(answer) and agrees(text, answer) < FULL)
    ]


def lost_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Return lost answers in words."""
    answer, text = pairs[0]
    return f"{answer!r}, which comes back as {text!r}" + (f", and {len(pairs) - 1} more" if len(pairs) > 1 else "")
