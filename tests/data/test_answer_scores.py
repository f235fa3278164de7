"""The scores of answers: what holds for any text, and that labels can be told apart."""

from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clbench.data.answer_scores import (
    METRICS,
    exact_match,
    exact_match_lower,
    exact_match_verbatim,
    normalise,
    rouge_l,
    score_answers,
    token_f1,
)
from clbench.data.catalogue import task_specs
from clbench.data.sources import check_labels_round_trip
from clbench.errors import ClbenchError

WORDS = st.lists(st.text("abAB.", min_size=1, max_size=3), max_size=6).map(" ".join)  # few letters, so that words meet
TEXTS = st.one_of(st.text(max_size=30), WORDS)
LABELLED = [spec for spec in task_specs().values() if spec.labels]


@given(TEXTS)
def test_what_is_normalised_stays_as_it_is(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.lower().strip()
    assert "  " not in once


@pytest.mark.parametrize("name", METRICS)
@given(TEXTS, TEXTS)
def test_every_score_is_a_percentage_whichever_text_is_the_answer(name, one, other):
    score = METRICS[name](one, other)
    assert 0 <= score <= 100
    assert METRICS[name](other, one) == pytest.approx(score)


@given(TEXTS, TEXTS)
def test_the_exact_matches_overlook_more_and_more(one, other):
    verbatim, lower, normalised = (m(one, other) for m in (exact_match_verbatim, exact_match_lower, exact_match))
    assert {verbatim, lower, normalised} <= {0, 100}
    assert verbatim <= lower <= normalised <= token_f1(one, other)
    assert exact_match_verbatim(one, f" {one}\n") == 100
    assert exact_match(one, f" {one.lower()}!") == 100


@given(WORDS, st.randoms(use_true_random=False))
def test_token_f1_does_not_look_at_the_order(text, random):
    words = text.split()
    random.shuffle(words)
    assert token_f1(" ".join(words), text) == 100


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
    assert score_answers("length", ["abc", "a"], ["", ""], {"length": lambda answer, target: len(answer)}) == 2


def test_which_tasks_have_labels():
    assert len(LABELLED) == 19  # of 30; the others are free text
    assert {spec.name for spec in LABELLED} >= {name for name in task_specs() if not name.startswith("task")}


@pytest.mark.parametrize("spec", LABELLED, ids=lambda spec: spec.name)
def test_every_label_is_right_for_itself_alone_and_a_twin_is_noticed(spec):
    assert len(spec.labels) > 1
    check_labels_round_trip(spec.labels)
    for label in spec.labels:
        with pytest.raises(ClbenchError, match="same answer after normalisation"):
            check_labels_round_trip([*spec.labels, f" {label.upper()}. "])
