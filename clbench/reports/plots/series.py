"""Which runs go into one bar, line or panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clbench.errors import ClbenchError
from clbench.records.files import RunFiles
from clbench.records.record import Record
from clbench.reports.leaderboard import STREAM_TITLES, Row, make_rows
from clbench.reports.suites import DRAWS_MAPS


@dataclass(frozen=True)
class Series:
    """What one bar, line or panel shows: runs of one method that are averaged.

    Attributes:
        label: the method, as the legend names it.
        records: the runs.
        group: what else the series differ in: stream, recipe, backbone.
        maps: the maps files of the runs, for the kinds that draw them.
    """

    label: str
    records: Sequence[Record]
    group: str = ""
    maps: Sequence[Path] = ()

    @property
    def answers(self) -> list[Path]:
        """The answers files of the runs, beside their maps files."""
        return [RunFiles(maps.parent, one.name).answers for one, maps in zip(self.records, self.maps, strict=True)]


def series_of(found: Mapping[Path, Record], kind: str, stream: str | None = None) -> list[Series]:
    """Return the leaderboard's rows as series, the best OP first.

    Args:
        found: the records, by the paths of their files.
        kind: for the kinds that draw maps, runs without maps are left out.
        stream: a stream or a family to keep.

    Raises:
        ClbenchError: nothing is left.
    """
    maps = {record.name: RunFiles(path.parent, record.name).maps for path, record in found.items()}
    kept = [one for one in found.values() if kind not in DRAWS_MAPS or maps[one.name].exists()]
    rows = make_rows(kept, stream)
    if not rows:
        of_stream = f" of stream '{stream}'" if stream else ""
        raise ClbenchError(
            f"no run{of_stream} has maps; a run makes them with --log-maps"
            if len(kept) < len(found)
            else f"there are no records{of_stream}"
        )
    recipes, families = {row.recipe for row in rows}, {row.stream for row in rows}

    def group(row: Row) -> str:
        title = STREAM_TITLES.get(row.stream, row.stream)
        return ", ".join([title] * (len(families) > 1) + [row.recipe] * (len(recipes) > 1)) or title

    return [Series(row.label, row.records, group(row), [maps[one.name] for one in row.records]) for row in rows]
