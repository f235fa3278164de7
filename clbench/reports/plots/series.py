"""Which runs go into one bar, line or panel, and what a picture says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from clbench.errors import ClbenchError
from clbench.records.files import RunFiles
from clbench.records.record import Record
from clbench.reports.leaderboard import STREAM_TITLES, Row, make_rows, recipe_text
from clbench.reports.suites import DRAWS_MAPS


@dataclass(frozen=True)
class Series:
    """What one bar, line or panel shows: runs of one method that are averaged.

    Attributes:
        label: the method, as the picture names it.
        records: the runs.
        group: what else the series differ in: stream, recipe, backbone.
        maps: the maps files of the runs, for the kinds that draw them.
    """

    label: str
    records: Sequence[Record]
    group: str = ""
    maps: Sequence[Path] = ()

    @property
    def is_upper_bound(self) -> bool:
        """Whether the method is shown as what others are measured by, such as training on all tasks at once."""
        return bool(self.records) and all(record.method.about.upper_bound for record in self.records)

    @property
    def answers(self) -> list[Path]:
        """The answers files of the runs, beside their maps files."""
        return [RunFiles(maps.parent, one.name).answers for one, maps in zip(self.records, self.maps, strict=True)]


def series_of(found: Mapping[Path, Record], kind: str, stream: str | None = None) -> list[Series]:
    """Return the leaderboard's rows as series, the best OP first; those of one board are one group.

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
    titles = board_titles(rows)
    return [Series(row.label, row.records, titles[row.board], [maps[one.name] for one in row.records]) for row in rows]


def board_titles(rows: Sequence[Row]) -> dict[str, str]:
    """Return how each board is called: by its stream and, where there are several, its recipe; no two alike."""
    first = {row.board: row for row in reversed(rows)}
    many = len({row.stream for row in rows}) < len(first)
    titles: dict[str, str] = {}
    for board in dict.fromkeys(row.board for row in rows):
        row = first[board]
        name = STREAM_TITLES.get(row.stream, row.stream) + (f": {row.recipe}" if many else "")
        alike = sum(title == name or title.startswith(f"{name} [") for title in titles.values())
        titles[board] = f"{name} [{alike + 1}]" if alike else name
    return titles


def subject(series: Sequence[Series]) -> str:
    """Return what runs a picture is of: their streams, what their recipes share, and their seeds."""
    records = [record for one in series for record in one.records]
    if not records:
        return ""
    streams = list(dict.fromkeys(stream_title(record) for record in records))
    recipes = [recipe_text(record).split(", ") for record in records]
    shared = [part for part in recipes[0] if all(part in recipe for recipe in recipes)]
    return ", ".join(
        ["; ".join(streams) if len(streams) < 4 else f"{len(streams)} streams", *shared, seeds_text(series)]
    )


def stream_title(record: Record) -> str:
    """Return a stream as a reader of the literature calls it."""
    family, order = record.stream.family, record.stream.order
    return f"{STREAM_TITLES[family]} (order {order})" if family in STREAM_TITLES and order else record.stream.name


def seeds_text(series: Sequence[Series]) -> str:
    """Return the seeds of a picture's runs in few words; how many runs a series is of, where they differ."""
    seeds = {tuple(sorted({record.seed for record in one.records})) for one in series}
    if len(seeds) == 1:
        (common,) = seeds
        if len(common) > 2 and common[-1] - common[0] == len(common) - 1:
            return f"seeds {common[0]} to {common[-1]}"
        return f"seed{'s' * (len(common) > 1)} {', '.join(map(str, common))}"
    counts = sorted({len(one.records) for one in series})
    return f"{counts[0]} runs each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs each"


def short_labels(series: Sequence[Series]) -> list[str]:
    """Return labels as short as tells the series apart: the method alone, or with the fewest options that no other one has."""
    labels = [titled(one, series) for one in series]
    named = [_name_and_options(one.label) for one in series]
    for number, (name, options) in enumerate(named):
        rivals = [set(others) for other, (of, others) in enumerate(named) if of == name and other != number]
        if any(other.issuperset(options) for other in rivals):
            continue
        some = (told for count in range(len(options) + 1) for told in combinations(options, count))
        fewest = next(told for told in some if not any(other.issuperset(told) for other in rivals))
        labels[number] = f"{name} ({', '.join(fewest)})" if fewest else name
    return labels


def _name_and_options(label: str) -> tuple[str, list[str]]:
    name, _, options = label.partition(" (")
    return name, options.removesuffix(")").split(", ") if options else []


def titled(one: Series, series: Sequence[Series]) -> str:
    """Return a series' label, with its group where another one has the same label."""
    alike = [other for other in series if other.label == one.label]
    return f"{one.label}, {one.group}" if len(alike) > 1 and one.group else one.label
