"""`clbench compare --ranking`: Spearman's correlation as scipy has it, the right pairs, and an interval that means something."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from clbench.reports.leaderboard import make_rows
from clbench.reports.published import read_ledger
from clbench.reports.ranking import correlate, ranking_values, rankings, spearman
from tests.conftest import REFERENCE
from tests.records.examples import record

PAPER = {
    "seqlora": 43.7,
    "lorareplay": 68.8,
    "tasl": 76.3,
    "vrmcl": 76.0,
    "rkif": 78.4,
}  # Table 1, run by the paper itself


def runs(scores: dict[str, float], seeds=(1, 2, 3), **settings):
    return [record(m, "standard:1", seed, op + seed / 10, **settings) for m, op in scores.items() for seed in seeds]


def test_the_correlation_is_scipy_s():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, (50, 9)).astype(float), generator.normal(size=(50, 9))
    expected = [spearmanr(one, other).statistic for one, other in zip(first, second, strict=True)]
    assert spearman(first, second) == pytest.approx(expected)
    assert np.isnan(spearman(np.ones((1, 4)), second[:1, :4])).all()


def test_the_same_ranking_is_one_and_the_opposite_minus_one():
    rows = make_rows(runs(PAPER))
    [[whole]] = rankings(rows, read_ledger(), "rkif")
    assert (whole.which, len(whole.pairs)) == ("all of Table 1", 5)
    assert (whole.rho, whole.low, whole.high) == (1.0, 1.0, 1.0)
    [[opposite]] = rankings(make_rows(runs({name: 100 - op for name, op in PAPER.items()})), read_ledger(), "rkif")
    assert (opposite.rho, opposite.high) == (-1.0, -1.0)


def test_copied_numbers_are_told_apart_and_upper_bounds_left_out():
    rows = make_rows(runs({**PAPER, "olora": 10.0, "mtl": 90.0}))
    [[whole, own]] = rankings(rows, read_ledger(), "rkif")
    assert {pair.row.method for pair in whole.pairs} == {*PAPER, "olora"}
    assert {pair.row.method for pair in own.pairs} == set(PAPER)
    assert own.rho == 1.0
    assert -1 < whole.low < whole.rho < whole.high <= 1
    assert [one["compared"] for one in ranking_values([[whole, own]])] == ["all of Table 1", "run by the paper itself"]


def test_recipes_are_ranked_apart_and_of_a_method_s_rows_the_one_nearest_its_defaults():
    both = [*runs(PAPER), *runs({name: 100 - op for name, op in PAPER.items()}, epochs=3)]
    both += runs({"rkif": 0.0}, options={"ties": "out"})
    found = rankings(make_rows(both), read_ledger(), "rkif")
    assert sorted(one.rho for [one] in found) == [-1.0, 1.0]
    assert rankings(make_rows(runs({"rkif": 1.0, "tasl": 2.0})), read_ledger(), "rkif") == []


def test_an_interval_is_wider_where_runs_differ():
    near = {name: 50 + op / 100 for name, op in PAPER.items()}
    scattered = [record(m, "standard:1", s, op + 9 * ((s + len(m)) % 3)) for m, op in near.items() for s in (1, 2, 3)]
    [[steady]] = rankings(
        make_rows([record(m, "standard:1", s, op) for m, op in near.items() for s in (1, 2)]), read_ledger(), "rkif"
    )
    [[unsteady]] = rankings(make_rows(scattered), read_ledger(), "rkif")
    assert steady.low == 1.0 > unsteady.low
    assert correlate("again", unsteady.pairs).low == unsteady.low  # the same resamples


def test_the_command(clbench):
    result = clbench("compare", "--ranking", "--results", REFERENCE, "--format", "json")
    assert result.exit_code == 0, result.output
    whole, own = json.loads(result.stdout)
    assert (whole["stream"], whole["methods"], own["methods"]) == ("standard", 11, 6)
    assert -1 <= whole["low"] < whole["rho"] < whole["high"] <= 1
    table = clbench("compare", "--ranking", "--results", REFERENCE, "--format", "md").stdout
    assert "Spearman's rho" in table
    assert "Places up here" in table
    none = clbench("compare", "--ranking", "--results", REFERENCE, "--stream", "superni")
    assert none.exit_code == 2
    assert "nothing to rank" in none.stderr
