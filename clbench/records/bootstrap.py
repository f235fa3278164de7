"""Is a difference between methods more than chance? A paired bootstrap over test rows and over runs (orders and seeds).

A resample draws, for every task, as many test rows as there are, with repetition: the same ones for all methods and for both
scores of a task (at the end, right after learning). Then it draws as many runs as there are: the same orders and seeds for both
methods of a comparison. Of one run only the rows are drawn. Intervals are percentiles; a p-value is twice the smaller part of
the resamples on one side of zero (Efron & Tibshirani 1993, ch. 15), and those of one table are corrected after Holm (1979).

`scipy.stats.bootstrap` draws on one level, and all methods' draws together only row by row; here a resample of the rows is one
product of matrices. SciPy has no correction after Holm. The tests compare with SciPy what it has.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
FINEST = 0.005  # the smallest p-value that a table can show, however many methods it has
LEVEL = 0.95  # of the intervals; 1 - LEVEL is the level of significance
BOUNDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
CHUNK = 4_000_000  # numbers drawn at a time

Numbers = NDArray[np.float64]
RunKey = tuple[str, int]  # a stream's name and a seed


@dataclass(frozen=True)
class ScoredRun:
    """One run's score of every test row, in percent.

    `last` are those after the last task, `learned` those right after learning, each by the task's name; `learned` lacks the
    last task, and all tasks where the run did not evaluate them.
    """

    key: RunKey
    last: Mapping[str, Numbers]
    learned: Mapping[str, Numbers]

    @property
    def has_bwt(self) -> bool:
        """Whether BWT is defined: every task but the last was asked right after learning."""
        return 0 < len(self.learned) == len(self.last) - 1


@dataclass(frozen=True)
class Standing:
    """How a method stands among those that it can be compared with; percent, intervals at 95%.

    `p_value` is Holm-corrected, of the difference in OP to the best; none for the best, for an upper bound, and where no order
    and seed was run by both; `p_below`: it is smaller, since no resample at all was on the other side. What is not significantly
    worse than the best shares rank 1; else the same OP, to one decimal, shares a rank.
    """

    op_low: float
    op_high: float
    bwt_low: float | None
    bwt_high: float | None
    p_value: float | None = None
    p_below: bool = False
    rank: int | None = None
    mark: Literal["", "best", "close"] = ""


def resample_rows(runs: Sequence[ScoredRun], resamples: int = RESAMPLES, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Return OP and BWT of each run in each resample of the test rows, both of shape (runs, resamples); BWT may be nan."""
    op, bwt = np.zeros((len(runs), resamples)), np.zeros((len(runs), resamples))
    for task in sorted({name for run in runs for name in run.last}):
        having = [number for number, run in enumerate(runs) if task in run.last]
        last = np.stack([runs[number].last[task] for number in having])
        rows = last.shape[1]
        generator = np.random.default_rng([seed, zlib.crc32(task.encode()), rows])
        means = np.empty((len(having), resamples))
        fallen = np.zeros((len(having), resamples))
        nothing = np.zeros(rows)
        fall = np.stack([_fall(runs[number], task, nothing) for number in having])
        step = max(1, CHUNK // rows)
        for begin in range(0, resamples, step):
            count = min(step, resamples - begin)
            drawn = generator.multinomial(rows, np.full(rows, 1 / rows), count).T / rows
            means[:, begin : begin + count], fallen[:, begin : begin + count] = last @ drawn, fall @ drawn
        for place, number in enumerate(having):
            op[number] += means[place] / len(runs[number].last)
            bwt[number] += fallen[place] / max(1, len(runs[number].learned))
    bwt[[not run.has_bwt for run in runs]] = np.nan
    return op, bwt


def _fall(run: ScoredRun, task: str, nothing: Numbers) -> Numbers:
    return run.last[task] - run.learned[task] if task in run.learned else nothing


def resample_runs(keys: Sequence[RunKey], resamples: int = RESAMPLES, seed: int = 0) -> Numbers:
    """Return the share of each run in each resample of the runs, shape (runs, resamples)."""
    count = len(keys)
    generator = np.random.default_rng([seed, zlib.crc32(repr(sorted(keys)).encode())])
    drawn = generator.multinomial(count, np.full(count, 1 / count), resamples).T / count
    places = {key: place for place, key in enumerate(sorted(keys))}
    return np.asarray(drawn[[places[key] for key in keys]])


def p_value(differences: Numbers) -> float:
    """Return the two-sided p-value of resampled differences against no difference; never zero."""
    below, above = np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(differences))))


def enough_resamples(methods: int) -> int:
    """Return how many resamples a table of so many methods needs, so that Holm's factor leaves room below `FINEST`."""
    return max(RESAMPLES, math.ceil(2 * (methods - 1) / FINEST))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = highest
    return corrected


def interval(values: Numbers) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile interval of resampled values; none if a value is not defined."""
    if np.isnan(values).any():
        return None, None
    low, high = np.quantile(values, BOUNDS)
    return float(low), float(high)


def compare_methods(
    methods: Sequence[Sequence[ScoredRun]],
    ranked: Sequence[bool] | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> list[Standing]:
    """Return the standing of each method, given as its runs, among methods that share tasks and test rows.

    Args:
        ranked: which methods take part in the ranking; an upper bound gets intervals alone.
        resamples: how many; none: as many as the number of methods needs.
    """
    resamples = resamples or enough_resamples(len(methods))
    runs = [run for method in methods for run in method]
    op, bwt = resample_rows(runs, resamples, seed)
    starts = np.cumsum([0, *map(len, methods)])
    of_method = [
        {run.key: (op[start + number], bwt[start + number]) for number, run in enumerate(method)}
        for start, method in zip(starts, methods, strict=False)
    ]
    standings = [_intervals(values, resamples, seed) for values in of_method]
    taking = [number for number in range(len(methods)) if ranked is None or ranked[number]]
    means = {number: round(float(np.mean([_plain_op(run) for run in methods[number]])), 6) for number in taking}
    best = max(taking, key=lambda number: means[number], default=-1)
    raw = {
        number: p
        for number in taking
        if number != best and (p := _pair_p_value(of_method[best], of_method[number], resamples, seed)) is not None
    }
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    for number in taking:
        p = corrected.get(number)
        mark: Literal["", "best", "close"] = (
            "best" if number == best else "close" if p is not None and p > 1 - LEVEL else ""
        )
        better = sum(round(other, 1) > round(means[number], 1) for other in means.values())
        below = number in raw and raw[number] <= 2 / (1 + resamples)
        rank = 1 if mark else 1 + better
        standings[number] = replace(standings[number], p_value=p, p_below=below, rank=rank, mark=mark)
    return standings


def _intervals(values: Mapping[RunKey, tuple[Numbers, Numbers]], resamples: int, seed: int) -> Standing:
    weights = resample_runs(list(values), resamples, seed)
    op, bwt = ((np.stack([pair[which] for pair in values.values()]) * weights).sum(0) for which in (0, 1))
    return Standing(*np.quantile(op, BOUNDS).tolist(), *interval(bwt))


def _plain_op(run: ScoredRun) -> float:
    return float(np.mean([scores.mean() for scores in run.last.values()]))


def _pair_p_value(
    best: Mapping[RunKey, tuple[Numbers, Numbers]],
    other: Mapping[RunKey, tuple[Numbers, Numbers]],
    resamples: int,
    seed: int,
) -> float | None:
    shared = [key for key in best if key in other]
    if not shared:
        return None
    weights = resample_runs(shared, resamples, seed)
    return p_value((np.stack([best[key][0] - other[key][0] for key in shared]) * weights).sum(0))
