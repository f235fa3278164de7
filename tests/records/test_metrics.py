"""Metrics: the fixtures of the specifications, by hand."""

import pytest

from clbench.data.answer_scores import (
    METRICS,
    exact_match,
    exact_match_lower,
    exact_match_verbatim,
    normalise,
    rouge_l,
    score_answers,
    takes_prompt,
    token_f1,
)
from clbench.records.metrics import backward_transfer, cells_to_evaluate, forgetting, overall_performance

LOWER = [[80, None, None], [70, 60, None], [50, 55, 90]]


def test_op_bwt_and_forgetting_of_the_protocol_fixture():
    assert overall_performance(LOWER) == 65
    assert backward_transfer(LOWER) == -17.5
    assert forgetting(LOWER) == 17.5


def test_op_and_bwt_of_the_replay_fixture():
    scores = [[0.9, None, None], [0.6, 0.8, None], [0.5, 0.7, 0.9]]
    assert overall_performance(scores) == pytest.approx(0.7)
    assert backward_transfer(scores) == pytest.approx(-0.25)


def test_bwt_needs_only_the_diagonal_and_the_last_row():
    assert backward_transfer([[80, None, None], [None, 60, None], [50, 55, 90]]) == -17.5


def test_forgetting_takes_the_best_earlier_score():
    assert forgetting([[50, None, None], [70, 60, None], [40, 55, 90]]) == (30 + 5) / 2


def test_backward_transfer_is_undefined_without_the_diagonal():
    only_last = [[None, None], [70, 80]]
    assert overall_performance(only_last) == 75
    assert backward_transfer(only_last) is None
    assert forgetting(only_last) is None


def test_op_is_unweighted_over_tasks():
    big, small = ["x"] * 90 + ["y"] * 10, ["x"] * 1 + ["y"] * 9
    scores = [score_answers("exact_match", answers, ["x"] * len(answers)) for answers in (big, small)]
    weighted = score_answers("exact_match", big + small, ["x"] * 110)
    assert overall_performance([[None, None], scores]) == 50
    assert weighted == pytest.approx(100 * 91 / 110)


def test_normalisation_keeps_articles_and_drops_punctuation_and_case():
    assert normalise("  The Society,  & Culture. ") == "the society culture"
    assert exact_match("world.", "World") == 100
    assert exact_match("", "World") == 0
    assert exact_match("a", "A") == 100


def test_the_exact_matches_differ_in_what_they_overlook():
    metrics = (exact_match, exact_match_lower, exact_match_verbatim)
    assert [metric(" World.", "world") for metric in metrics] == [100, 0, 0]
    assert [metric(" World ", "world") for metric in metrics] == [100, 100, 0]
    assert [metric(" World ", "World") for metric in metrics] == [100, 100, 100]


def test_token_f1_by_hand():
    assert token_f1("the cat sat", "The cat, the dog") == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert token_f1("", "cat") == token_f1("dog", "cat") == 0
    assert token_f1("Cat.", "cat") == 100
    assert token_f1("", "") == 0


def test_rouge_l_by_hand():
    assert rouge_l("the cat sat", "the cat sat") == 100
    assert rouge_l("", "cat") == 0
    assert rouge_l("the cats were sitting", "a cat sits") == pytest.approx(100 * 2 * 2 / (4 + 3))  # stems cat, sit
    assert rouge_l("b a", "a b") == pytest.approx(50)  # order counts


def test_of_several_references_the_best_counts():
    assert score_answers("exact_match", ["x", "y"], [("z", "x"), "y"]) == 100
    assert score_answers("rouge_l", ["a cat", "dog"], [("a dog", "a cat"), ("bird",)]) == 50


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_100_to_the_reference_and_0_to_nothing(name):
    answer = "Science or Technology, that is to say"  # BLEU takes four words
    prompt = ("Science, Technology",) if takes_prompt(METRICS[name]) else ()
    assert METRICS[name](answer, answer, *prompt) == pytest.approx(100)
    assert name == "sari" or METRICS[name]("", answer) == 0  # what is empty is not handed to it


def test_score_answers_refuses_a_missing_answer():
    with pytest.raises(ValueError, match="zip"):
        score_answers("exact_match", ["x"], ["x", "y"])


@pytest.mark.parametrize(
    ("matrix", "cells"),
    [
        ("op", [[], [], [0, 1, 2]]),
        ("bwt", [[0], [1], [0, 1, 2]]),
        ("lower", [[0], [0, 1], [0, 1, 2]]),
        ("full", [[0, 1, 2]] * 3),
    ],
)
def test_cells_asked_for(matrix, cells):
    assert [cells_to_evaluate(matrix, after, 3) for after in range(3)] == cells
