"""Do our methods rank as a paper's do? Spearman's correlation of OP with its first table, with a bootstrap interval.

A resample draws as many methods as there are, with repetition, and of each of them as many runs as it has: the same orders and
seeds for every method. Ties share the mean of their ranks; a resample in which all are equal has no correlation and is left out.
The interval has the percentiles of what remains. Upper bounds take no part.

The ranks are pandas'. `scipy.stats.spearmanr` and pandas' `corrwith` take one pair of lines at a time, and there are 10,000; the
tests compare with SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from clbench.records.bootstrap import BOUNDS, Numbers, resample_runs
from clbench.reports.comparison import find_published
from clbench.reports.leaderboard import STREAM_TITLES, Row
from clbench.reports.published import Published
from clbench.reports.tables import Sheet

TABLE = "Table 1"  # of the source, with its overall results
RESAMPLES = 10_000
FEWEST = 3  # methods; below, a correlation says nothing


@dataclass(frozen=True)
class Pair:
    """One of our rows, and the published row of the same method."""

    row: Row
    entry: Published


@dataclass(frozen=True)
class Correlation:
    """How our ranking of some methods agrees with the published one: rho from -1 to 1, with its 95% interval."""

    which: str
    pairs: Sequence[Pair]
    rho: float
    low: float
    high: float


def rankings(rows: Sequence[Row], ledger: Sequence[Published], source: str) -> list[list[Correlation]]:
    """Return, for each set of rows that can be compared, the correlation over all methods, and over those not copied there.

    Raises:
        ClbenchError: no such source.
    """
    entries = [entry for entry in ledger if entry.table == TABLE or entry.source.name != source]
    boards: dict[str, dict[int, Pair]] = {}
    for row in sorted(rows, key=lambda one: len(one.records[0].method.changed_options)):
        if row.op is None or row.records[0].method.about.upper_bound:
            continue
        for entry in find_published(row, entries, source):
            boards.setdefault(row.board, {}).setdefault(
                id(entry), Pair(row, entry)
            )  # of several the nearest to the defaults
    found = []
    for board in boards.values():
        pairs = list(board.values())
        own = [pair for pair in pairs if not pair.entry.copied]
        parts = {f"all of {TABLE}": pairs, **({} if len(own) == len(pairs) else {"run by the paper itself": own})}
        of_board = [correlate(which, some) for which, some in parts.items() if len(some) >= FEWEST]
        found += [of_board] if of_board else []
    return found


def correlate(which: str, pairs: Sequence[Pair], resamples: int = RESAMPLES, seed: int = 0) -> Correlation:
    """Return the correlation over some methods, with its interval."""
    theirs = np.array([float(pair.entry.op or 0.0) for pair in pairs])
    ours = np.array([float(pair.row.op or 0.0) for pair in pairs])
    drawn_ours = np.stack([_resampled_op(pair.row, resamples, seed) for pair in pairs], axis=1)
    chosen = np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs)))
    found = spearman(np.take_along_axis(drawn_ours, chosen, axis=1), theirs[chosen])
    low, high = np.nanquantile(found, BOUNDS)
    return Correlation(which, pairs, float(spearman(ours[None], theirs[None])[0]), float(low), float(high))


def _resampled_op(row: Row, resamples: int, seed: int) -> Numbers:
    keys = [(record.stream.name, record.seed) for record in row.records]
    scores = np.array([float(record.metrics.op or 0.0) for record in row.records])
    return np.asarray(scores @ resample_runs(keys, resamples, seed))


def spearman(first: Numbers, second: Numbers) -> Numbers:
    """Return Spearman's correlation of each pair of lines, shape (lines,); nan where all values of a line are equal."""
    ranks = [np.asarray(pandas.DataFrame(values).rank(axis=1)) for values in (first, second)]
    one, other = (values - values.mean(axis=1, keepdims=True) for values in ranks)
    scale = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    with np.errstate(invalid="ignore"):
        return np.asarray((one * other).sum(1) / scale)


def ranking_values(found: Sequence[Sequence[Correlation]]) -> list[dict[str, Any]]:
    """Return one mapping a correlation, as plain values."""
    return [
        {
            "stream": one.pairs[0].row.stream,
            "recipe": one.pairs[0].row.recipe,
            "source": one.pairs[0].entry.source.name,
            "compared": one.which,
            "methods": len(one.pairs),
            "rho": one.rho,
            "low": one.low,
            "high": one.high,
        }
        for board in found
        for one in board
    ]


def ranking_sheets(found: Sequence[Sequence[Correlation]]) -> list[Sheet]:
    """Return the correlations as a table for people, and for each set of rows the two rankings beside each other."""
    lines = [
        [
            STREAM_TITLES.get(one["stream"], one["stream"]),
            one["compared"],
            str(one["methods"]),
            f"{one['rho']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]",
            one["recipe"],
        ]
        for one in ranking_values(found)
    ]
    note = (
        "In brackets: 95% interval, bootstrap over methods and over runs. Upper bounds take no part; of several rows of a "
        "method the one nearest to its defaults does."
    )
    header = ["Stream", "Methods of", "Methods", "Spearman's rho", "Recipe"]
    sheets = [Sheet("Our ranking and the published one", header, lines, left=(0, 1, 4), notes=[note])]
    return sheets + [_beside(board[0].pairs) for board in found]


def _beside(pairs: Sequence[Pair]) -> Sheet:
    ours, theirs = (
        _ranks([float(op or 0.0) for op in ops]) for ops in zip(*((p.row.op, p.entry.op) for p in pairs), strict=True)
    )
    lines = [
        [
            pair.row.label,
            f"{pair.row.op:.1f}",
            f"{ours[number]:g}",
            f"{pair.entry.op:.1f}{' (copied)' if pair.entry.copied else ''}",
            f"{theirs[number]:g}",
            f"{theirs[number] - ours[number]:+g}",
        ]
        for number, pair in sorted(enumerate(pairs), key=lambda one: -(one[1].row.op or 0.0))
    ]
    stream = pairs[0].row.stream
    header = ["Method", "OP", "Rank", f"published, {TABLE}", "Rank", "Places up here"]
    return Sheet(STREAM_TITLES.get(stream, stream), header, lines, left=(0,))


def _ranks(scores: Sequence[float]) -> Mapping[int, float]:
    return dict(enumerate(pandas.Series(scores).rank(ascending=False)))
