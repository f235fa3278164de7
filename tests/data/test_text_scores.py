"""The scores of free text against the libraries that define them, and against sums done by hand."""

import importlib.util

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clbench.data.answer_scores import METRICS, lost_answers, score_answers
from clbench.data.text_scores import (
    bleu_1,
    bleu_1_rest,
    bleu_4,
    code_similarity,
    edit_similarity,
    fill_literals,
    first_character,
    rouge_l_rest,
    rouge_l_spaces,
    sari,
    words_13a,
)

SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "d", "Größe", "判断", ".", "e.", "3.5"]), min_size=1).map(" ".join)


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def test_the_first_character_is_all_that_counts():
    assert first_character(" B\nsince the clause cannot stand alone", "B\nanother reasoning") == 100
    assert first_character("A", "B\nreasons") == 0
    assert first_character("", "") == 0


def test_edit_similarity_counts_insertions_and_deletions():
    assert edit_similarity("abcd", "abxd") == pytest.approx(100 * (1 - 2 / 8))  # a replaced letter is one of each
    assert edit_similarity("größe", "große") == pytest.approx(80)


def test_literals_are_filled_in_before_code_is_compared():
    assert fill_literals("f ( <NUM_LIT> , '<STR_LIT:a b>' , <STR_LIT> , <NUM_LIT:42> )") == "f ( 0 , 'a b' ,  , 42 )"
    assert code_similarity("x = <NUM_LIT>", "x = 0") == 100
    assert code_similarity("<STR_LIT>", "<STR_LIT>") == 0  # as the release: nothing was answered


def test_bleu_by_hand():
    assert bleu_1("the cat sat", "the cat slept") == pytest.approx(100 * 2 / 3)
    assert bleu_1("the cat", "the cat sat here") == pytest.approx(100 * 2.718281828 ** (1 - 4 / 2))  # brevity penalty
    assert bleu_4("a b c d e", "a b c d x") == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu_4("a b c", "a b c") < 1e-9  # no four words


def test_of_a_letter_and_its_reasons_the_reasons_are_scored():
    assert bleu_1_rest("A\nthe cat sat", "B\nthe cat slept") == bleu_1("the cat sat", "the cat slept")
    assert rouge_l_rest("B\na b", "B\na b") == 100
    assert rouge_l_rest("B", "B") == 0  # as the release: there are none


def test_sari_by_hand():
    """One word a text: all of its 2-, 3- and 4-grams are missing, which counts as nothing to do, well done."""
    assert sari("b", "b", "a") == 100
    assert sari("a", "b", "a") == pytest.approx(100 * (0 + 1 + 0 + 9) / 12)  # kept a: wrong; deleted none; added no b
    assert sari("b", "a", "a") == pytest.approx(100 * (0 + 0 + 0 + 9) / 12)  # (keep, delete, add of single words)
    assert score_answers("sari", ["b", ""], ["b", "b"], prompts=["a", "a"]) == 50
    with pytest.raises(ValueError, match="takes the questions"):
        score_answers("sari", ["b"], ["b"])


def test_sari_of_a_sentence_as_evaluate_s_code_computes_it():
    """The example of `evaluate`'s page with its first reference, step by step on paper for single words."""
    source, answer = "About 95 species are currently accepted .", "About 95 you now get in ."
    reference = "About 95 species are currently known ."
    # n=1: keep 3 of 3, of 6 to keep: F1 2/3; delete accepted alone is right: 1/4; add {you, now, get, in}: none is known
    # n=2: keep 'about 95' of 5 ('about 95', ... 'are currently'): 1 of 4; delete 5, 2 right; n=3, n=4: keep none
    keep = (2 / 3 + 2 * 1 * (1 / 4) / (1 + 1 / 4)) / 4
    delete = (1 / 4 + 2 / 5 + 2 / 5 + 2 / 4) / 4
    assert sari(answer, reference, source) == pytest.approx(100 * (keep + delete + 0) / 3)


@pytest.mark.skipif(not has("sacrebleu"), reason="needs sacrebleu")
@given(st.text(max_size=40))
def test_words_are_those_of_mteval_13a(text):
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    assert words_13a(text) == Tokenizer13a()(text).split()


@pytest.mark.skipif(not has("rouge"), reason="needs the package rouge")
@given(SENTENCES, SENTENCES)
def test_rouge_l_spaces_is_that_of_the_package_rouge(answer, target):
    from rouge import Rouge

    assume(
        not any(part.isspace() for text in (answer, target) for part in text.split("."))
    )  # it counts those as a word
    assume(answer.strip(".") and target.strip("."))  # and refuses such
    expected = Rouge(metrics=["rouge-l"]).get_scores(answer, target)[0]["rouge-l"]["f"]
    assert rouge_l_spaces(answer, target) == pytest.approx(100 * expected, abs=1e-4)


def test_an_answer_that_comes_back_as_it_was_is_not_lost():
    assert lost_answers(METRICS["bleu_4"], ["two words"], ["two words"]) == []
    assert lost_answers(METRICS["sari"], ["Größe"], ["Gre"]) == [("Größe", "Gre")]
