"""Fates of questions: what became of each, and after which task it was lost, from the answers alone."""

import pytest

from clbench.errors import ClbenchError
from clbench.records.answers import Answer, read_answers
from clbench.records.fates import Question, count_fates, questions_of
from clbench.records.files import read_record
from tests.conftest import REFERENCE
from tests.records.examples import record


def asked(right):
    return Question(0, "", dict(enumerate(right)), ("a",), {})


@pytest.mark.parametrize(
    ("right", "fate", "lost_after"),
    [
        ([True], "kept", None),
        ([True, True, True], "kept", None),
        ([True, False, True], "kept", None),
        ([False, True], "learned later", None),
        ([False, False], "never right", None),
        ([True, False], "forgotten", (0, 1)),
        ([False, True, False, False], "forgotten", (1, 2)),
        ([True, False, True, False], "forgotten", (2, 3)),
    ],
)
def test_fates(right, fate, lost_after):
    assert asked(right).fate == fate
    assert asked(right).lost_after == lost_after


def test_a_question_that_was_not_asked_in_between_was_lost_within_a_span():
    assert Question(0, "", {1: True, 4: False}, ("a",), {}).lost_after == (1, 4)


def test_answers_before_a_task_was_learned_do_not_count():
    tasks = [{"name": name, "version": 1} for name in ("x", "y")]
    full = record(fields={"tasks": tasks, "scores": [[100, 100], [0, 100]]})
    right, wrong = Answer("a", ("a",)), Answer("b", ("a",))
    cells = {(0, 0): [right], (0, 1): [wrong], (1, 0): [wrong], (1, 1): [right]}
    x, y = questions_of(full, cells)
    assert [question.fate for question in (*x, *y)] == ["forgotten", "kept"]
    assert x[0].answers == {0: "a", 1: "b"}
    own = record(fields={"tasks": [{"name": "x", "version": 1, "metric": "own"}]})
    with pytest.raises(ClbenchError, match="no metric 'own'"):
        questions_of(own, {(0, 0): [right]})
    ((scored,),) = questions_of(own, {(0, 0): [Answer("b", ("a",), score=60.0)]})  # by a plugin that is not here
    assert scored.fate == "kept"


def test_fates_of_a_reference_run_add_up_to_its_scores():
    path = next(REFERENCE.glob("*_rkif_*_s1_*.json"))
    content = read_record(path)
    for number, of_task in enumerate(questions_of(content, read_answers(content, path.with_suffix(".answers.jsonl")))):
        counts = count_fates(of_task)
        assert sum(counts.values()) == len(of_task) == 500
        assert (counts["kept"] + counts["learned later"]) / 5 == pytest.approx(content.scores[-1][number])
