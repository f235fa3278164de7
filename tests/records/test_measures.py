"""The measures of a score matrix: what holds for any of them, and hand-made matrices where a plausible slip shows."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.records.metrics import (
    backward_transfer,
    backward_transfer_over_all,
    cells_to_evaluate,
    forgetting,
    forward_transfer,
    overall_performance,
)

PERCENT = st.floats(0, 100, allow_subnormal=False)
MEASURES = (overall_performance, backward_transfer, backward_transfer_over_all, forgetting)


def matrices(least: int = 1):
    """Whole score matrices of `least` to six tasks, the part above the diagonal too."""
    return st.integers(least, 6).flatmap(
        lambda tasks: st.lists(st.lists(PERCENT, min_size=tasks, max_size=tasks), min_size=tasks, max_size=tasks)
    )


def without_future(scores):
    """The same matrix, not measured on tasks that are still to come."""
    return [[value if j <= i else None for j, value in enumerate(row)] for i, row in enumerate(scores)]


def diagonal_and_last(scores):
    """What `--matrix bwt` measures."""
    last = len(scores) - 1
    return [[value if j == i or i == last else None for j, value in enumerate(row)] for i, row in enumerate(scores)]


@given(matrices())
def test_op_is_the_mean_of_the_last_row(scores):
    found = overall_performance(scores)
    assert found == pytest.approx(fmean(scores[-1]))
    assert min(scores[-1]) - 1e-9 <= found <= max(scores[-1]) + 1e-9


@given(matrices(2))
def test_bwt_and_forgetting_are_their_definitions(scores):
    last = len(scores) - 1
    assert backward_transfer(scores) == pytest.approx(fmean(scores[last][j] - scores[j][j] for j in range(last)))
    falls = [max(scores[i][j] for i in range(j, last)) - scores[last][j] for j in range(last)]
    assert forgetting(scores) == pytest.approx(fmean(falls))
    assert backward_transfer_over_all(scores) == pytest.approx(backward_transfer(scores) * last / (last + 1))


@given(matrices(2))
def test_the_ranges_and_their_order(scores):
    bwt, forgotten = backward_transfer(scores), forgetting(scores)
    assert -100 <= bwt <= 100
    assert -100 <= forgotten <= 100
    assert forgotten >= -bwt - 1e-9  # the best earlier score is no lower than the one right after learning
    if len(scores) == 2:
        assert forgotten == pytest.approx(-bwt)


@given(matrices(2), PERCENT)
def test_scores_on_tasks_that_are_still_to_come_count_nowhere(scores, before):
    known = without_future(scores)
    for measure in MEASURES:
        assert measure(scores) == measure(known) is not None
    assert forward_transfer(scores, [before] * len(scores)) == forward_transfer(known, [before] * len(scores))
    for measure in MEASURES[:-1]:  # forgetting needs the cells between
        assert measure(scores) == measure(diagonal_and_last(scores))


def test_forgetting_does_not_look_at_a_task_before_it_was_learned():
    assert forgetting([[80, 99, 99], [70, 60, 99], [50, 55, 90]]) == 17.5


@given(matrices(2), st.randoms(use_true_random=False))
def test_the_names_of_the_old_tasks_do_not_matter(scores, random):
    order = list(range(len(scores) - 1))
    random.shuffle(order)
    order.append(len(scores) - 1)
    renamed = [[scores[i][j] for j in order] for i in order]
    for measure in MEASURES[:-1]:
        assert measure(renamed) == pytest.approx(measure(scores))


@given(matrices(2), st.data())
def test_a_measure_that_lacks_a_cell_is_not_defined(scores, data):
    last = len(scores) - 1
    j = data.draw(st.integers(0, last - 1))
    no_end, no_start = diagonal_and_last(scores), diagonal_and_last(scores)
    no_end[last][j] = no_start[j][j] = None
    assert [measure(no_end) for measure in MEASURES] == [None] * 4
    assert overall_performance(no_start) == overall_performance(scores)
    assert [measure(no_start) for measure in MEASURES[1:]] == [None] * 3
    assert forward_transfer(no_start, scores[0]) is None
    assert forward_transfer(scores, no_end[last]) is None


def test_of_the_rows_between_forgetting_takes_those_that_were_measured():
    assert forgetting([[50, None, None], [None, 60, None], [40, 55, 90]]) == (10 + 5) / 2
    assert forgetting([[None, None, None], [70, 60, None], [40, 55, 90]]) == (30 + 5) / 2


def test_one_task_has_nothing_to_forget():
    assert overall_performance([[70]]) == 70
    assert [measure([[70]]) for measure in MEASURES[1:]] == [None] * 3
    assert forward_transfer([[70]], [50]) == 20


@given(matrices(), st.data())
def test_fwt_is_the_mean_gain_over_what_was_before(scores, data):
    before = data.draw(st.lists(PERCENT, min_size=len(scores), max_size=len(scores)))
    expected = fmean(scores[j][j] - before[j] for j in range(len(scores)))
    assert forward_transfer(scores, before) == pytest.approx(expected)
    assert forward_transfer(scores, [scores[j][j] for j in range(len(scores))]) == 0
    assert forward_transfer(scores, [value + 1 for value in before]) == pytest.approx(expected - 1)


@given(st.integers(1, 9), st.data())
def test_each_choice_of_cells_holds_the_one_before_it(tasks, data):
    after = data.draw(st.integers(0, tasks - 1))
    op, bwt, lower, full = (cells_to_evaluate(matrix, after, tasks) for matrix in ("op", "bwt", "lower", "full"))
    assert set(op) <= set(bwt) <= set(lower) <= set(full)
    assert after in bwt
    assert lower == list(range(after + 1))
    assert full == list(range(tasks))
    assert len(op) == (tasks if after == tasks - 1 else 0)
    assert len(bwt) == (tasks if after == tasks - 1 else 1)
