"""The bootstrap's parts: what holds for any scores, and tables small enough to work out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.records.bootstrap import (
    CHUNK,
    FINEST,
    RESAMPLES,
    ScoredRun,
    compare_methods,
    enough_resamples,
    holm,
    interval,
    p_value,
    resample_rows,
    resample_runs,
)

P_VALUES = st.lists(st.floats(0, 1), max_size=8)
DIFFERENCES = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=1, max_size=30).map(np.array)
KEYS = st.lists(st.tuples(st.sampled_from(["s:1", "s:2"]), st.integers(1, 5)), min_size=1, max_size=6, unique=True)


def run(last, learned=None, key=("s:1", 1)):
    def arrays(scores):
        return {name: np.array(values, dtype=float) for name, values in scores.items()}

    return ScoredRun(key, arrays(last), arrays(learned or {}))


def certain(op: float, key=("s:1", 1)):
    """A run whose rows all have one score, so that every resample gives it."""
    return run({"x": [op] * 3}, key=key)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_corrects_in_order_and_whatever_the_order_given(values, random):
    corrected = holm(values)
    assert all(raw <= found <= 1 for raw, found in zip(values, corrected, strict=True))
    ordered = [found for _, found in sorted(zip(values, corrected, strict=True))]
    assert ordered == sorted(ordered)
    if values:
        assert min(corrected) == min(1.0, len(values) * min(values))
        assert max(corrected) >= max(values)
    places = list(range(len(values)))
    random.shuffle(places)
    assert holm([values[place] for place in places]) == [corrected[place] for place in places]


@given(DIFFERENCES)
def test_a_p_value_is_two_sided_and_never_zero(differences):
    found = p_value(differences)
    assert 0 < found <= 1
    assert p_value(-differences) == found
    assert p_value(np.abs(differences) + 1) == pytest.approx(min(1, 2 / (1 + len(differences))))


def test_p_values_by_hand():
    assert p_value(np.array([-1.0, 1, 1, 1, 1, 1, 1])) == 2 * (1 + 1) / 8
    assert p_value(np.array([0.0, 1, 1, 1, 1, 1, 1])) == 2 * (1 + 1) / 8  # zero lies on both sides
    assert p_value(np.array([-1.0, -1, -1, 1, 1])) == 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50).map(np.array))
def test_an_interval_holds_95_percent(values):
    low, high = interval(values)
    assert (low, high) == pytest.approx((np.quantile(values, 0.025), np.quantile(values, 0.975)))
    assert interval(np.append(values, np.nan)) == (None, None)


@given(KEYS, st.randoms(use_true_random=False))
def test_shares_of_runs_add_up_and_belong_to_the_key(keys, random):
    shares = resample_runs(keys, 20)
    assert shares.shape == (len(keys), 20)
    assert shares.sum(0) == pytest.approx(np.ones(20))
    assert np.allclose(shares * len(keys), np.round(shares * len(keys)))
    places = list(range(len(keys)))
    random.shuffle(places)
    assert np.array_equal(resample_runs([keys[place] for place in places], 20), shares[places])
    assert not np.array_equal(resample_runs([*keys, ("s:3", 1)], 200, seed=1), resample_runs([*keys, ("s:3", 1)], 200))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4), st.floats(0, 100))
def test_scores_without_spread_come_out_as_they_are(ops, learned):
    last = {f"t{number}": [op] * (number + 1) for number, op in enumerate(ops)}  # tasks of different sizes
    before = {name: [learned] * len(rows) for name, rows in list(last.items())[:-1]}
    op, bwt = resample_rows([run(last, before)], 5)
    assert op[0] == pytest.approx(np.full(5, np.mean(ops)))
    if before:
        assert bwt[0] == pytest.approx(np.full(5, np.mean([op - learned for op in ops[:-1]])))
    else:
        assert np.isnan(bwt).all()


def test_bwt_needs_every_task_but_the_last():
    last = {"x": [50, 50], "y": [60, 60], "z": [70, 70]}
    whole, part, over = {"x": [80, 80], "y": [60, 60]}, {"x": [80, 80]}, last
    op, bwt = resample_rows([run(last, learned) for learned in (whole, part, over, {})], 3)
    assert op == pytest.approx(np.full((4, 3), 60.0))
    assert bwt[0] == pytest.approx(np.full(3, -15.0))
    assert np.isnan(bwt[1:]).all()


def test_rows_are_drawn_alike_for_all_runs_and_apart_for_tasks():
    rows = [0, 0, 100, 100, 100]
    runs = [
        run({"x": rows}),
        run({"x": [100 - value for value in rows]}),
        run({"y": rows}),
        run({"x": rows, "y": rows}),
    ]
    op, _ = resample_rows(runs, 500)
    assert op[0] == pytest.approx(100 - op[1])  # the same rows, the other way round
    assert not np.allclose(op[0], op[2])  # another task draws on its own
    assert op[3] == pytest.approx((op[0] + op[2]) / 2)
    alone, _ = resample_rows(runs[:1], 500)
    assert alone[0] == pytest.approx(op[0])  # whoever else is there
    other, _ = resample_rows(runs, 500, seed=1)
    assert not np.allclose(op, other)
    more, _ = resample_rows([run({"x": [*rows, 0]})], 500)
    assert not np.allclose(more[0] * 6, op[0] * 5)  # another number of rows, other draws


def test_many_rows_are_drawn_in_parts_and_no_resample_is_left_out():
    rows = 3 * CHUNK // 1000
    scores = np.zeros(rows)
    scores[: rows // 4] = 100
    op, bwt = resample_rows([run({"x": scores, "y": [1]}, {"x": np.zeros(rows)})], 1000)  # three parts and a rest
    deviation = math.sqrt(0.25 * 0.75 / rows) * 100
    fallen = bwt[0]
    assert np.abs(fallen - 25).max() < 6 * deviation
    assert fallen.std() == pytest.approx(deviation, rel=0.2)
    assert len(set(fallen.tolist())) > 500
    assert op[0] == pytest.approx((fallen + 1) / 2)


def standings(*ops: float, ranked=None):
    return compare_methods([[certain(op)] for op in ops], ranked, resamples=99)


def test_methods_are_ranked_by_op_to_one_decimal():
    found = compare_methods([[certain(op)] for op in (50, 80, 50.04, 70, 40)], resamples=999)
    assert [standing.rank for standing in found] == [3, 1, 3, 2, 5]
    assert [standing.mark for standing in found] == ["", "best", "", "", ""]
    for standing, op in zip(found, (50, 80, 50.04, 70, 40), strict=True):
        assert (standing.op_low, standing.op_high) == pytest.approx((op, op))


def test_p_values_of_a_table_are_corrected_together():
    two = standings(80, 70)
    three = standings(80, 70, 60)
    assert (two[0].p_value, two[1].p_value) == (None, pytest.approx(2 / 100))
    assert [standing.p_value for standing in three[1:]] == pytest.approx([2 * 2 / 100] * 2)
    assert [standing.mark for standing in three] == ["best", "", ""]
    four = standings(80, 70, 60, 50)  # three comparisons: 3 x .02 is above .05
    assert [(standing.mark, standing.rank) for standing in four] == [("best", 1)] + [("close", 1)] * 3


def test_an_upper_bound_is_in_nobodys_way():
    bound, best, other = standings(99, 80, 70, ranked=[False, True, True])
    assert (bound.rank, bound.mark, bound.p_value, bound.op_low) == (None, "", None, 99)
    assert (best.rank, best.mark) == (1, "best")
    assert (other.rank, other.p_value) == (2, pytest.approx(2 / 100))
    assert [standing.rank for standing in standings(99, 80, ranked=[False, False])] == [None, None]


def test_methods_are_compared_over_the_runs_that_both_have():
    keys = [("s:1", seed) for seed in (1, 2, 3)]
    best = [certain(op, key) for op, key in zip((90, 90, 10), keys, strict=True)]
    other = [certain(op, key) for op, key in zip((50, 60), keys[:2], strict=True)]
    first, second = compare_methods([best, other], resamples=99)
    assert (first.mark, second.mark, second.p_value) == ("best", "", pytest.approx(2 / 100))
    assert (first.op_low, first.op_high) == pytest.approx((10, 90))  # some of 99 draws are of one run alone
    assert (second.op_low, second.op_high) == pytest.approx((50, 60))
    nobody = compare_methods([best, [certain(50, ("s:2", 1))]], resamples=99)
    assert (nobody[1].p_value, nobody[1].mark, nobody[1].rank) == (None, "", 2)


def test_the_interval_of_bwt_is_that_of_the_runs():
    learned = {"x": [70, 70]}
    method = [run({"x": [50, 50], "y": [1]}, learned), run({"x": [60, 60], "y": [1]}, learned, ("s:1", 2))]
    (both,) = compare_methods([method], resamples=199)
    assert (both.bwt_low, both.bwt_high) == pytest.approx((-20, -10))
    (lacking,) = compare_methods([[method[0], run({"x": [60, 60], "y": [1]}, key=("s:1", 2))]], resamples=199)
    assert (lacking.bwt_low, lacking.bwt_high) == (None, None)
    assert (lacking.op_low, lacking.op_high) == pytest.approx((25.5, 30.5))


def test_the_interval_of_bwt_belongs_to_its_method():
    learned, keys = {"x": [70, 70]}, [("s:1", 1), ("s:1", 2)]
    methods = [
        [run({"x": [op, op], "y": [1]}, learned, key) for op, key in zip(ops, keys, strict=True)]
        for ops in ((50, 60), (61, 69), (20, 30))
    ]
    found = compare_methods(methods, resamples=199)
    assert [(one.bwt_low, one.bwt_high) for one in found] == [
        pytest.approx(pair) for pair in ((-20, -10), (-9, -1), (-50, -40))
    ]


def test_the_p_value_is_of_the_difference_in_op_row_by_row():
    best, other = run({"x": [100, 100, 0]}), run({"x": [0, 0, 100]})
    op, _ = resample_rows([best, other], 99)
    expected = p_value(op[0] - op[1])
    assert 0.3 < expected < 1  # two rows for, one against
    for methods in ([[best], [other]], [[other], [best]]):
        found = {standing.mark: standing for standing in compare_methods(methods, resamples=99)}
        assert (found["best"].p_value, found["close"].p_value) == (None, pytest.approx(expected))


def test_what_differs_in_the_seventh_decimal_is_equal_and_ranks_are_of_one_decimal():
    assert standings(80, 80.0000004)[0].mark == "best"
    found = compare_methods([[certain(op)] for op in (80.4, 70.4, 70.36, 70.6)], resamples=999)
    assert [standing.rank for standing in found] == [1, 3, 3, 2]


@pytest.mark.parametrize("count", [2, 13, 53, 200])
def test_any_number_of_methods_can_be_told_apart(count):
    """53 methods and more could not be significant at all with 2000 resamples."""
    resamples = enough_resamples(count)
    assert resamples >= RESAMPLES
    assert holm([2 / (1 + resamples)] * (count - 1))[0] <= FINEST


def test_a_p_value_that_no_resample_reached_is_a_bound():
    generator = np.random.default_rng(0)
    rows = generator.choice([0.0, 100.0], 60)
    near = np.where(generator.random(60) < 0.1, 100 - rows, rows)
    best, close, far = compare_methods([[run({"x": list(scores)})] for scores in (rows, near, rows * 0)], [True] * 3)
    standings = sorted(
        (best, close, far), key=lambda standing: (standing.p_value is not None, -(standing.p_value or 0))
    )
    assert [standing.p_below for standing in standings] == [False, False, True]
    assert standings[2].p_value == pytest.approx(2 * 2 / (1 + RESAMPLES))
