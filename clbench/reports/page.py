"""The one-file report of a results folder: tables, pictures, recipes, audit verdicts and environment as one HTML page.

The page loads nothing: pictures are data within it (see `clbench/reports/templates.py` for what else keeps it closed).
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clbench import __version__
from clbench.errors import ClbenchError
from clbench.options import options_text
from clbench.records.files import RunFiles, read_records
from clbench.records.record import Record
from clbench.reports.comparison import compare_rows, compare_sheet
from clbench.reports.leaderboard import STREAM_TITLES, Row, format_score, make_rows, pivot
from clbench.reports.plots.kinds import draw_untitled, has_matplotlib, page_svg, title_of
from clbench.reports.plots.series import Series, subject
from clbench.reports.published import Published
from clbench.reports.suites import DRAWS_MAPS
from clbench.reports.tables import Cell, Sheet
from clbench.reports.templates import render
from clbench.settings import NOT_RECIPE


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its caption, and the SVG as a data URI."""

    caption: str
    uri: str


@dataclass(frozen=True)
class Board:
    """The runs of one stream family under one recipe: what may be compared."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Report:
    """What a report is of: a results folder and the leaderboard's rows of its records."""

    folder: Path
    rows: Sequence[Row]

    @property
    def records(self) -> list[Record]:
        """The records, as the rows hold them."""
        return [record for row in self.rows for record in row.records]


def read_report(folder: Path, stream: str | None = None) -> Report:
    """Read what a report needs of a results folder.

    Args:
        stream: a stream or a family to keep.

    Raises:
        ClbenchError: no such folder, no records, or malformed ones.
    """
    rows = make_rows(read_records(folder), stream)
    if not rows:
        raise ClbenchError(f"there are no records{f' of stream {stream!r}' if stream else ''} in '{folder}'")
    return Report(folder, rows)


def make_page(
    report: Report, ledger: Sequence[Published], source: str = "rkif", links: Mapping[str, str] | None = None
) -> str:
    """Return a report as one HTML page.

    Args:
        source: whose published numbers ours are set beside.
        links: where the pages of single runs lie, by the names of their records.

    Raises:
        ClbenchError: no such source.
    """
    rows, records, folder = report.rows, report.records, report.folder
    boards = boards_of(rows)
    return render(
        "report.html",
        folder=folder.resolve().name,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        records=records,
        leaderboard=leaderboard_sheet(rows, folder),
        compared=compare_sheet(compare_rows(rows, ledger, source)),
        boards=[(board.title, list(pictures_of(board, folder)), recipe_sheet(board)) for board in boards],
        no_pictures="" if has_matplotlib() else "No pictures: matplotlib is not installed (pip install matplotlib).",
        audits=audit_verdicts(records),
        environment=environment_sheet(records),
        runs=runs_sheet(records, links or {}),
    )


def boards_of(rows: Sequence[Row]) -> list[Board]:
    """Return the rows by what they may be compared with."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.board].append(row)
    return [
        Board(f"{STREAM_TITLES.get(group[0].stream, group[0].stream)}: {group[0].recipe}", group)
        for group in found.values()
    ]


def leaderboard_sheet(rows: Sequence[Row], folder: Path) -> Sheet:
    """Return the leaderboard with intervals, p-values and ranks; a note says of which rows answers are missing."""
    from clbench.reports.significance import assess

    assessed = assess(rows, folder)
    without = [row.label for row in assessed if row.standing is None and row.op is not None]
    sheet = pivot(assessed)
    notes = [*sheet.notes, *[f"Without significance, since answers are missing: {', '.join(without)}."] * bool(without)]
    return replace(sheet, notes=notes)


def pictures_of(board: Board, folder: Path) -> Iterator[Picture]:
    """Yield the pictures of a board: of its scores and times, of each stream's order, and of what maps were logged."""
    if not has_matplotlib():
        return
    every = [Series(row.label, row.records) for row in board.rows]
    for kind in ("overall", "bars", "time"):
        yield make_picture(kind, every)
    with suppress(ClbenchError):  # where there are no two numbers of fusions
        yield make_picture("fusions", every)
    for name in dict.fromkeys(record.stream.name for one in every for record in one.records):
        of_stream = [
            Series(one.label, kept)
            for one in every
            if (kept := [record for record in one.records if record.stream.name == name])
        ]
        if len(of_stream[0].records[0].tasks) > 1:
            yield make_picture("curves", of_stream)
            yield make_picture("matrix", of_stream)
        yield from pictures_of_maps(of_stream, folder)


def pictures_of_maps(series: Sequence[Series], folder: Path) -> Iterator[Picture]:
    """Yield the pictures of the maps that a stream's runs logged, method by method."""
    for one in series:
        maps = [path for record in one.records if (path := RunFiles(folder, record.name).maps).exists()]
        if maps and len(one.records[0].tasks) > 1:
            for kind in DRAWS_MAPS:
                drawn = make_picture(kind, [Series(one.label, one.records, "", maps)])
                yield replace(drawn, caption=f"{one.label}: {drawn.caption}")


def make_picture(kind: str, series: Sequence[Series]) -> Picture:
    """Draw a picture for the page."""
    content = base64.b64encode(page_svg(draw_untitled(kind, series)).encode("utf-8")).decode("ascii")
    return Picture(f"{title_of(kind)}: {subject(series)}", f"data:image/svg+xml;base64,{content}")


def recipe_sheet(board: Board) -> Sheet:
    """Return the settings that the runs of a board share, and below them the options of each method."""
    first = board.rows[0].records[0].settings
    lines = [[name, shown(value)] for name, value in first.items() if name not in NOT_RECIPE]
    for row in board.rows:
        options = row.records[0].method.options
        if options:
            lines.append([f"options of {row.label}", options_text(options)])
    return Sheet("Recipe", ["Setting", "Value"], lines, left=(0, 1))


def shown(value: Any) -> str:
    """Return a setting's value as text."""
    return "-" if value is None else str(value)


def audit_verdicts(records: Sequence[Record]) -> list[tuple[str, str, list[str]]]:
    """Return each verdict on the data once: of which streams and data, in short, and its findings."""
    found: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        findings = ("none kept in the record",) if record.audit is None else record.audit.findings
        where = f"{record.stream.name} from {record.setting('data')}"
        if where not in found.setdefault(findings, []):
            found[findings].append(where)
    return [
        (
            "; ".join(places),
            f"{sum(text.startswith('error') for text in findings)} errors, "
            f"{sum(text.startswith('warning') for text in findings)} warnings",
            list(findings),
        )
        for findings, places in found.items()
    ]


def environment_sheet(records: Sequence[Record]) -> Sheet:
    """Return where the runs were made: each combination of device, versions and commit, with the number of its runs."""
    counted: dict[tuple[str, ...], int] = defaultdict(int)
    names = list(dict.fromkeys(name for record in records for name in record.environment.versions))
    for record in records:
        here = record.environment
        where = (here.device, here.precision, here.git_commit, here.clbench, record.protocol_version)
        counted[tuple(shown(value) for value in (*where, *(here.versions.get(name) for name in names)))] += 1
    lines = [[str(count), *values] for values, count in counted.items()]
    header = ["Runs", "Device", "Precision", "Commit", "clbench", "Protocol", *names]
    return Sheet("Environment", header, lines, left=range(1, len(header)))


def runs_sheet(records: Sequence[Record], links: Mapping[str, str]) -> Sheet:
    """Return one line a run, which leads to its page where there is one."""
    lines: list[list[str | Cell]] = [
        [
            Cell(record.name, link=links.get(record.name, "")),
            record.method.name,
            record.stream.name,
            str(record.seed),
            format_score(record.metrics.op, None),
            format_score(record.metrics.bwt, None),
            f"{sum(record.timings.learn_seconds):.0f}",
            shown(record.finished),
        ]
        for record in records
    ]
    header = ["Record", "Method", "Stream", "Seed", "OP", "BWT", "Learning, s", "Finished"]
    return Sheet("Runs", header, lines, left=(0, 1, 2, 7))
