"""Scores of free text against a right one, in percent: BLEU, SARI, edit similarity, and Rouge-L as TRACE's release has it.

Rouge-L and SARI are our own code, a page, so that scoring needs neither `rouge` nor `evaluate`; the tests compare it with the
former, and with the latter's formula.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

Tokens = Sequence[str]

# A reader of Py150 fills in what its code has in place of strings and numbers, before two lines are compared (TRACE's release).
EMPTY_LITERALS = (("<NUM_LIT>", "0"), ("<STR_LIT>", ""), ("<CHAR_LIT>", ""))
LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def first_character(answer: str, target: str) -> float:
    """Return 100 where both begin with the same character, white space apart, else 0 (TRACE: 'B' of 'B' and a reasoning)."""
    return 100.0 if answer.strip()[:1] == target.strip()[:1] != "" else 0.0


def edit_similarity(answer: str, target: str) -> float:
    """Return 100 x (1 - insertions and deletions that turn one into the other / characters of both), as rapidfuzz's `ratio`."""
    from rapidfuzz.fuzz import ratio  # here: few runs need it

    return float(ratio(answer.strip(), target.strip()))


def code_similarity(answer: str, target: str) -> float:
    """Return the edit similarity of two lines of code once their literals are filled in (TRACE's score of Py150).

    The release rounds each to a whole percent; here it is not rounded. A line of which nothing is left scores 0, as there.
    """
    answer, target = fill_literals(answer).strip(), fill_literals(target).strip()
    return edit_similarity(answer, target) if answer and target else 0.0


def fill_literals(code: str) -> str:
    """Return code with `<STR_LIT:x>` as x, `<STR_LIT>` and `<CHAR_LIT>` as nothing, `<NUM_LIT>` as 0."""
    for mark, text in EMPTY_LITERALS:
        code = code.replace(mark, text)
    return LITERAL.sub(lambda found: found[1], code)


def bleu_1(answer: str, target: str) -> float:
    """Return BLEU of single words with the brevity penalty (Papineni et al. 2002), of one answer, as TRACE's release."""
    return _bleu(answer, target, 1)


def bleu_4(answer: str, target: str) -> float:
    """Return BLEU of one to four words, of one answer, without smoothing, as TRACE's release: 0 where no four words agree."""
    return _bleu(answer, target, 4)


def _bleu(answer: str, target: str, longest: int) -> float:
    from nltk.translate.bleu_score import sentence_bleu  # here: slow to import

    given, wanted = ([word for word in re.split(r"\s|\.", text) if word] for text in (answer, target))
    with warnings.catch_warnings():  # it warns of every answer that shares no four words
        warnings.simplefilter("ignore")
        return min(100.0, 100.0 * float(sentence_bleu([wanted], given, (1 / longest,) * longest)))


def rouge_l_spaces(answer: str, target: str) -> float:
    """Return Rouge-L as the package `rouge` 1.0.1 has it, which TRACE's release takes: no stemmer, words between white space.

    Sentences end at full stops; of each sentence of the target, the words that some longest common subsequence with a sentence of
    the answer has (Lin 2004, 3.2), each word counted once.
    """
    given, wanted = _sentences(answer), _sentences(target)
    all_given, all_wanted = ({word for sentence in text for word in sentence} for text in (given, wanted))
    common: set[str] = set()
    for of_target, of_answer in product(wanted, given):
        common |= _common_words(of_target, of_answer)
    if not common:
        return 0.0
    precision, recall = len(common) / len(all_given), len(common) / len(all_wanted)
    return 100.0 * 2 * precision * recall / (precision + recall)


def rouge_l_rest(answer: str, target: str) -> float:
    """Return `rouge_l_spaces` of what follows the first character and the one after it: of the reasons after a letter (TRACE)."""
    return _of_rest(rouge_l_spaces, answer, target)


def bleu_1_rest(answer: str, target: str) -> float:
    """Return `bleu_1` of the reasons after a letter, as `rouge_l_rest`."""
    return _of_rest(bleu_1, answer, target)


def bleu_4_rest(answer: str, target: str) -> float:
    """Return `bleu_4` of the reasons after a letter, as `rouge_l_rest`."""
    return _of_rest(bleu_4, answer, target)


def _of_rest(metric: Callable[[str, str], float], answer: str, target: str) -> float:
    answer, target = answer.strip()[2:], target.strip()[2:]
    return metric(answer, target) if answer.strip() and target.strip() else 0.0


def _sentences(text: str) -> list[list[str]]:
    return [words for sentence in text.split(".") if (words := sentence.split())]


def _common_words(one: Tokens, other: Tokens) -> set[str]:
    """Return the words of a longest common subsequence; of several, of the one that gives up words of `one` last."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one, 1):
        for j, another in enumerate(other, 1):
            same, above, left = lengths[i - 1][j - 1] + 1, lengths[i - 1][j], lengths[i][j - 1]
            lengths[i][j] = same if word == another else max(above, left)
    found: set[str] = set()
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.add(one[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def sari(answer: str, target: str, prompt: str) -> float:
    """Return SARI of a simplification of the prompt (Xu et al. 2016): the mean of keep-F1, add-F1 and delete-precision, n = 1..4.

    As `evaluate`'s `sari` with one reference: lower case, words by mteval-v13a; where there is nothing to keep, add or delete, 1.
    """
    texts = [words_13a(text.lower()) for text in (prompt, answer, target)]
    scores = [_sari(*(Counter(_grams(words, n)) for words in texts)) for n in range(1, 5)]
    return 100.0 * sum(map(sum, scores)) / (3 * len(scores))


def _grams(words: Tokens, size: int) -> list[tuple[str, ...]]:
    return [tuple(words[begin : begin + size]) for begin in range(len(words) - size + 1)]


def _sari(
    source: Counter[tuple[str, ...]], given: Counter[tuple[str, ...]], wanted: Counter[tuple[str, ...]]
) -> list[float]:
    """Return keep-F1, delete-precision and add-F1 of n-grams of one length."""
    kept, to_keep = source & given, source & wanted
    rightly = kept & wanted
    keep_precision = sum(rightly[gram] / kept[gram] for gram in rightly) / len(kept) if kept else 1.0
    keep_recall = rightly.total() / to_keep.total() if to_keep else 1.0
    deleted = source - given
    good = deleted - wanted
    delete_precision = sum(good[gram] / deleted[gram] for gram in good) / len(deleted) if deleted else 1.0
    added, to_add = given.keys() - source.keys(), wanted.keys() - source.keys()
    add_precision = len(added & to_add) / len(added) if added else 1.0
    add_recall = len(added & to_add) / len(to_add) if to_add else 1.0
    return [_f1(keep_precision, keep_recall), delete_precision, _f1(add_precision, add_recall)]


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def words_13a(text: str) -> list[str]:
    """Return the words of a text by mteval-v13a, the usual tokenization of machine translation."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for code, letter in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(code, letter)
    text = re.sub(r"([{-~\[-` -&(-+:-@/])", r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()
