"""The bootstrap: against exact enumeration and scipy; Holm by hand; what the leaderboard shows of it."""

import itertools
import json
import shutil

import numpy as np
import pytest
import scipy.stats

from clbench.records.bootstrap import ScoredRun, compare_methods, holm, p_value, resample_rows, resample_runs
from clbench.records.files import read_records
from clbench.reports.leaderboard import make_rows, pivot
from clbench.reports.significance import assess
from clbench.reports.tables import markdown, sheet_text
from tests.conftest import REFERENCE
from tests.records.examples import record

A = {"x": [100, 0, 100, 100], "y": [100, 100, 0]}
B = {"x": [100, 0, 0, 100], "y": [0, 100, 0]}
LEARNED = {"x": [100, 100, 100, 0]}


def run(last, learned=None, key=("s:1", 1)):
    def arrays(scores):
        return {name: np.array(values, dtype=float) for name, values in scores.items()}

    return ScoredRun(key, arrays(last), arrays(learned or {}))


def every_resample(scores):
    """Return the mean of every possible resample of a list, in one fixed order of resamples."""
    return np.array(
        [np.mean([scores[i] for i in pick]) for pick in itertools.product(range(len(scores)), repeat=len(scores))]
    )


def exact_op(last):
    """Return OP in every possible resample of the rows of tasks x and y (all equally likely)."""
    x, y = every_resample(last["x"]), every_resample(last["y"])
    return ((x[:, None] + y[None, :]) / 2).ravel()


def test_the_distribution_of_op_and_bwt_is_the_exact_one():
    op, bwt = resample_rows([run(A, LEARNED), run(B)], 40_000)
    exact = exact_op(A)
    for value in np.unique(exact):
        assert np.mean(np.isclose(op[0], value)) == pytest.approx(np.mean(np.isclose(exact, value)), abs=0.01)
    fall = every_resample([after - before for after, before in zip(A["x"], LEARNED["x"], strict=True)])
    for value in np.unique(fall):
        assert np.mean(np.isclose(bwt[0], value)) == pytest.approx(np.mean(np.isclose(fall, value)), abs=0.01)
    assert np.isnan(bwt[1]).all()  # nothing was asked right after learning


def test_the_p_value_is_the_exact_one_since_rows_are_paired():
    best, other = compare_methods([[run(A)], [run(B)]], resamples=40_000)
    difference = exact_op(A) - exact_op(B)  # the same rows for both
    exact = 2 * np.mean(difference <= 1e-9)
    assert best.p_value is None
    assert other.p_value == pytest.approx(exact, abs=0.01)
    shuffled = exact_op(A)[:, None] - exact_op(B)[None, :]
    assert abs(exact - 2 * np.mean(shuffled <= 1e-9)) > 0.1  # without pairing it would be another number
    assert (best.mark, best.rank, other.mark, other.rank) == ("best", 1, "close", 1)


def test_the_runs_are_drawn_together_and_the_exact_distribution_comes_out():
    runs = [[run({"x": [90]}, key=("s:1", 1)), run({"x": [50]}, key=("s:1", 2))], [run({"x": [70]}, key=("s:1", 1))]]
    runs[1].append(run({"x": [40]}, key=("s:1", 2)))
    one, two = compare_methods(runs, resamples=40_000)
    assert (one.op_low, one.op_high) == (50, 90)
    assert two.p_value < 1e-3  # 20, 15 or 10 better in every draw of seeds
    shares = resample_runs([("s:1", 1), ("s:1", 2)], 40_000)
    assert np.mean(shares[0] == 0.5) == pytest.approx(0.5, abs=0.01)
    assert np.mean(shares[0] == 1) == pytest.approx(0.25, abs=0.01)


def test_the_interval_is_that_of_scipy():
    rows = np.random.default_rng(3).choice([0.0, 100.0], 120, p=[0.4, 0.6])
    (ours,) = compare_methods([[run({"x": rows})]], resamples=20_000)
    theirs = scipy.stats.bootstrap((rows,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert (ours.op_low, ours.op_high) == pytest.approx((theirs.low, theirs.high), abs=1.0)


def test_holm_by_hand_and_p_values_never_zero():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x .01; 2 x .03; max(.06, .04)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert p_value(np.ones(99)) == pytest.approx(0.02)
    assert p_value(np.zeros(99)) == 1.0


def test_an_upper_bound_is_not_ranked_and_without_a_common_seed_there_is_no_p_value():
    methods = [[run({"x": [100] * 4, "y": [100] * 3})], [run(A)], [run(A, key=("s:1", 7))]]
    bound, best, other = compare_methods(methods, ranked=[False, True, True])
    assert (bound.rank, bound.mark, bound.p_value) == (None, "", None)
    assert (best.mark, other.p_value, other.rank) == ("best", None, 1)


@pytest.fixture
def four(tmp_path):
    """A folder with the records of four methods, whatever else the reference holds."""
    for method in ("mtl", "lorareplay", "rkif", "seqlora"):
        for path in REFERENCE.glob(f"standard-1_{method}_*"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_recorded_runs_are_assessed(clbench, four):
    result = clbench("leaderboard", "--results", four, "--significance", "--format", "json")
    rows = {row["method"]: row for row in json.loads(result.output)}
    assert rows["mtl"]["rank"] is None
    assert [name for name, row in rows.items() if row["mark"] == "best"] == ["lorareplay"]
    assert rows["rkif"]["mark"] == "close"
    assert rows["seqlora"]["p_value"] < 0.01
    for row in rows.values():
        assert row["op_low"] < row["op"] < row["op_high"]
    text = clbench("leaderboard", "--results", four, "--significance", "--format", "md").output
    assert "**49.6 ± 0.6 [" in text
    assert "<u>48.4 ± 1.2 [" in text
    for style in ("table", "csv", "latex"):
        assert clbench("leaderboard", "--results", four, "--significance", "--format", style).exit_code == 0
    plain = json.loads(clbench("leaderboard", "--results", four, "--format", "json").output)
    assert not {"rank", "standing", "records", "board"} & set(plain[0])


def test_missing_answers_are_one_line(clbench, tmp_path):
    shutil.copy(next(REFERENCE.glob("*seqlora*s1*.json")), tmp_path)
    result = clbench("leaderboard", "--results", tmp_path, "--significance")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: no interval and no rank of seqlora: no answers '")
    assert result.stderr.count("\n") == 1


def test_rows_of_different_recipes_are_not_compared():
    rows = make_rows([record(), record("mtl", epochs=3), record("seqlora")])
    boards = {row.method: row.board for row in rows}
    assert boards["rkif"] == boards["seqlora"] != boards["mtl"]


def assessed_rows(folder):
    return assess(make_rows(read_records(folder)), folder)


def test_all_reference_records_are_assessed():
    rows = assessed_rows(REFERENCE)
    assert len({row.method for row in rows}) >= 12
    assert all(row.standing.op_low < row.op < row.standing.op_high for row in rows)


def test_marks_in_latex_and_markdown_stand_around_the_whole_cell(four):
    sheet = pivot(assessed_rows(four))
    assert r"\textbf{49.6 $\pm$ 0.6 [" in sheet_text(sheet, [], "latex")
    assert "**49.6 ± 0.6 [" in markdown(sheet)
