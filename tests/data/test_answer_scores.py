"""The scores of answers: what holds for any text, and that labels can be told apart."""

# ruff: noqa: RUF001 - that letters look alike is what is tested
import re
import string
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clbench.data.answer_scores import (
    METRICS,
    exact_match,
    exact_match_lower,
    exact_match_verbatim,
    rouge_l,
    rouge_l_ascii,
    score_answers,
    takes_prompt,
    token_f1,
)
from clbench.data.catalogue import task_specs
from clbench.data.sources import check_labels_round_trip
from clbench.data.text_forms import as_seen, is_empty, normalise, without_case, words
from clbench.errors import ClbenchError

WORDS = st.lists(st.text("abAB.", min_size=1, max_size=3), max_size=6).map(" ".join)  # few letters, so that words meet
TEXTS = st.one_of(st.text(max_size=30), WORDS)
UNEVEN = [name for name in METRICS if name.startswith("bleu") or name in ("sari", "rouge_l_spaces", "rouge_l_rest")]
LABELLED = [spec for spec in task_specs().values() if spec.labels]


@given(TEXTS)
def test_what_is_normalised_stays_as_it_is(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.casefold().strip()
    assert "  " not in once


@pytest.mark.parametrize("name", METRICS)
@given(TEXTS, TEXTS, TEXTS)
def test_every_score_is_a_percentage_and_of_most_whichever_text_is_the_answer(name, one, other, prompt):
    question = (prompt,) if takes_prompt(METRICS[name]) else ()
    score = METRICS[name](one, other, *question)
    assert 0 <= score <= 100
    if name not in UNEVEN:  # precision counts more, or one of two subsequences is taken
        assert METRICS[name](other, one, *question) == pytest.approx(score)


@given(TEXTS, TEXTS)
def test_the_exact_matches_overlook_more_and_more(one, other):
    verbatim, lower, normalised = (m(one, other) for m in (exact_match_verbatim, exact_match_lower, exact_match))
    assert {verbatim, lower, normalised} <= {0, 100}
    assert verbatim <= lower <= normalised <= token_f1(one, other)
    assert exact_match_verbatim(one, f" {one}\n") == (0 if is_empty(one) else 100)
    if normalise(one):
        assert exact_match(one, f" {one.lower()}!") == 100


@given(st.text(st.sampled_from("a \t\x1c\xa0\u2000\u2028\u200b\u200d\u00ad\u0301\u3000"), max_size=4))
def test_a_text_is_empty_where_nothing_is_seen(text):
    assert is_empty(text) == (as_seen(text) == "")


@given(st.text(st.characters(codec="ascii"), max_size=30), st.text(st.characters(codec="ascii"), max_size=30))
def test_on_ascii_all_is_as_in_the_papers(one, other):
    """Version 2 of the protocol, but for what is empty after normalisation."""
    gone = str.maketrans("", "", string.punctuation)
    assert normalise(one) == " ".join(one.lower().translate(gone).split())
    assert without_case(one) == one.strip().lower()
    assert as_seen(one) == one.strip()
    assert words(one) == [word for word in re.sub("[^a-z0-9]+", " ", one.lower()).split(" ") if word]
    if words(one):
        assert rouge_l(other, one) == rouge_l_ascii(other, one)


SAME = [  # (metrics by which they are one, two texts that a reader cannot tell apart, or only by case, punctuation, form)
    ("verbatim lower match", "caf\u00e9", "cafe\u0301"),
    ("verbatim lower match", "a\u00a0b", "a b"),
    ("verbatim lower match", "\u200bnews\ufeff", "news"),
    ("verbatim lower match", "so\u00adfa", "sofa"),
    ("verbatim lower match", "\u3000新聞", "新聞"),
    ("lower match", "STRASSE", "straße"),
    ("lower match", "НОВОСТИ", "новости"),
    ("match", "ｎｅｗｓ", "news"),
    ("lower match", "ﬁlm", "film"),
    ("match", "«новости»", "новости"),
    ("match", "新聞。", "新聞"),
    ("match", "don’t", "don't"),
    ("match", "a — b", "a - b"),
    ("", "resume", "résumé"),
    ("", "و\u200cو", "وو"),
    ("", "新聞", "新間"),
]


@pytest.mark.parametrize(("metrics", "one", "other"), SAME)
def test_texts_that_look_the_same_are_one_answer_by_the_metrics_own_rule(metrics, one, other):
    all_metrics = {"verbatim": exact_match_verbatim, "lower": exact_match_lower, "match": exact_match}
    found = [name for name, metric in all_metrics.items() if metric(one, other) == 100]
    assert " ".join(found) == metrics


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("nothing", ["", " \n", "\u200b", "\u00a0"])
def test_nothing_scores_nothing(name, nothing):
    for target in (nothing, "", "?", "good", ("good", ""), ("", "")):
        assert score_answers(name, [nothing], [target], prompts=["so"]) == 0
    if name not in ("bleu_4", "bleu_4_rest"):  # of less than four words it knows nothing
        assert score_answers(name, ["good"], [("", "good")], prompts=["so"]) == 100


@pytest.mark.parametrize(
    "name", [name for name in METRICS if name not in ("rouge_l_ascii", "first_character", *UNEVEN)]
)
def test_labels_of_punctuation_alone_are_told_apart(name):
    check_labels_round_trip(["?", "!", ":-)"], METRICS[name])
    assert score_answers(name, ["", "?"], ["?", "?"]) == 50


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("кошка сидит на окне", "кошка спит"),
        ("猫坐在窗上", "猫睡"),
        ("बिल्ली खिड़की पर बैठी है", "बिल्ली सो रही है"),
        ("القط على النافذة", "القط نائم"),
        ("แมวนั่ง", "แมวนอน"),
        ("😀😀", None),
    ],
)
def test_rouge_l_reads_every_script(text, part):
    assert rouge_l(text, text) == 100
    assert rouge_l_ascii(text, text) == 0
    if part is not None:
        assert 0 < rouge_l(part, text) < 100


def test_words_keep_their_marks_and_rouge_stems_ascii_ones_alone():
    assert words("बिल्ली, Ｃａｆé-bar №5!") == ["बिल्ली", "café", "bar", "no5"]
    assert words("猫とcat") == ["猫", "と", "cat"]
    assert rouge_l("running naïvely", "run naïve") == pytest.approx(50)


def test_superni_keeps_the_published_rouge():
    specs = [spec for name, spec in task_specs().items() if name.startswith("task")]
    assert {spec.metric for spec in specs} == {"rouge_l_ascii"}


@pytest.mark.parametrize("value", [float("nan"), 1e9, -5, float("inf"), None, "much"])
def test_what_a_metric_returns_is_a_percentage(value):
    def odd(answer, target):
        return value

    with pytest.raises(ClbenchError, match=r"metric 'odd' \(.*test_answer_scores.py\) (scores|failed)"):
        score_answers("odd", ["a"], ["b"], {"odd": odd})


@given(WORDS, st.randoms(use_true_random=False))
def test_token_f1_does_not_look_at_the_order(text, random):
    shuffled = text.split()
    random.shuffle(shuffled)
    if normalise(text):
        assert token_f1(" ".join(shuffled), text) == 100


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_f1_of_known_overlaps(shared, only_given, only_wanted):
    assume(shared + only_given and shared + only_wanted)
    given_words = [f"s{i}" for i in range(shared)] + [f"g{i}" for i in range(only_given)]
    wanted = [f"s{i}" for i in range(shared)] + [f"w{i}" for i in range(only_wanted)]
    expected = 100 * 2 * shared / (len(given_words) + len(wanted))
    assert token_f1(" ".join(given_words), " ".join(wanted)) == pytest.approx(expected)
    assert rouge_l(" ".join(given_words), " ".join(wanted)) == pytest.approx(expected)  # the shared ones are in order


def test_a_repeated_word_counts_as_often_as_both_have_it():
    assert token_f1("a a a", "a a b") == pytest.approx(100 * 2 * 2 / 6)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5), WORDS)
def test_the_mean_over_answers_of_the_best_reference(rows, more):
    answers, targets = [answer for answer, _ in rows], [tuple(accepted) for _, accepted in rows]
    best = [max(token_f1(answer, one) for one in accepted) for answer, accepted in rows]
    found = score_answers("token_f1", answers, targets)
    assert found == pytest.approx(fmean(best))
    assert score_answers("token_f1", answers, [(*accepted, more) for accepted in targets]) >= found - 1e-9
    firsts = [accepted[0] for accepted in targets]
    assert score_answers("token_f1", answers, firsts) == score_answers("token_f1", answers, [(one,) for one in firsts])


def test_a_metric_of_a_plugin_is_found_where_it_is_given():
    assert score_answers("length", ["abc", "a"], ["x", "x"], {"length": lambda answer, target: len(answer)}) == 2


def test_which_tasks_have_labels():
    assert len(LABELLED) == 21  # of 38; the others are free text
    assert {spec.name for spec in LABELLED} >= {name for name, spec in task_specs().items() if spec.hub}


@pytest.mark.parametrize("spec", LABELLED, ids=lambda spec: spec.name)
def test_every_label_is_right_for_itself_alone_and_a_twin_is_noticed(spec):
    assert len(spec.labels) > 1
    check_labels_round_trip(spec.labels)
    for label in spec.labels:
        with pytest.raises(ClbenchError, match="same answer after normalisation"):
            check_labels_round_trip([*spec.labels, f" {label.upper()}. "])
