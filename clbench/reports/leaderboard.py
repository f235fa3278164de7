"""Records to tables: one row a method, columns per stream, as rich, markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from clbench.errors import ClbenchError, unknown
from clbench.options import options_text
from clbench.records.files import slug
from clbench.records.record import Record, default_settings
from clbench.records.summary import COSTS, measure_of
from clbench.reports.tables import Cell, Sheet, csv_text, rich_sheet, sheet_text
from clbench.settings import NOT_RECIPE
from clbench.terminal import Terminal
from clbench.tuned import TUNED_SETTINGS
from clbench.units import counted

if TYPE_CHECKING:
    from clbench.records.bootstrap import Standing

PROTOCOL = "protocol"  # as the recipe calls the protocol version, where it varies
ALWAYS_SHOWN = ("backbone", "data", "epochs", "learning_rate", "limit_train", "limit_test", "answers", "tuned")
WORTH_A_WORD = {"answers": "labels", "batching": "shuffled", "template": "release"}  # values that the recipe says
STREAM_TITLES = {"standard": "Standard CL", "long": "Long Sequence", "superni": "SuperNI", "trace": "TRACE"}
COLUMNS = {  # of a leaderboard: how each is called
    "op": "OP", "bwt": "BWT", "fwt": "FWT", "forgetting": "forgetting", "probe": "probe, %", "questions": "questions",
    "steps": "steps", "seconds": "seconds", "replayed": "rows replayed",
}  # fmt: skip
USUAL_COLUMNS = ("op", "bwt")
COST_NOTE = (
    "steps (through each task's batches; steps on replayed rows alone come on top), seconds, rows replayed: of learning all "
    "tasks, the mean over runs; seconds hold for one machine and its load."
)
PROBE_NOTE = (
    "probe: growth of perplexity from before the first task to after the last one, geometric mean over texts; questions: change "
    "of the score on the probe's questions."
)
NOT_SHOWN = ("records", "board", "standing")  # fields of a row that are no values of the table
RECIPES_NOTE = (
    "Rows of several recipes (last column) stand in the order of OP: what they differ in beside the method counts, too."
)
SIGNIFICANCE_NOTE = (
    "In brackets: 95% intervals, paired bootstrap over test rows and over runs (of one run: rows alone). Bold: the best OP of a "
    "recipe, upper bounds apart; underlined: not significantly worse, sharing its rank; p: difference to the best OP, after "
    "Holm, '<' where no resample was on the other side."
)


@dataclass(frozen=True)
class Row:
    """The runs of one method on one stream family under one recipe; scores in percent, std over orders and seeds.

    `options` are those that differ from the method's defaults; `marks` what a reader must know of the runs ('diverged'). Rows of
    one `board` share all but method and options, so that they can be compared; `standing` is how a row stands there, where it
    was assessed.
    """

    method: str
    options: str
    stream: str
    backbone: str
    data: str
    recipe: str
    op: float | None
    op_std: float | None
    bwt: float | None
    bwt_std: float | None
    runs: int
    marks: str = ""
    records: Sequence[Record] = field(default=(), repr=False, compare=False)
    board: str = field(default="", repr=False, compare=False)
    standing: Standing | None = None

    @property
    def label(self) -> str:
        """The method's name, with its options where they differ from the defaults."""
        return f"{self.method} ({self.options})" if self.options else self.method


def make_rows(records: Iterable[Record], stream: str | None = None) -> list[Row]:
    """Return the leaderboard's rows, the best OP of each stream family first, whatever the recipe.

    Only runs that agree in method, options, recipe, protocol version and test rows are averaged; of several records of the
    same order and seed the newest counts.

    Args:
        stream: a stream ('long:1') or a family ('long') to keep.
    """
    kept = [r for r in records if stream in (None, r.stream.name, r.stream.family)]
    varied, varied_options = _varied_settings(kept), _varied_options(kept)
    groups: dict[tuple[str, ...], dict[tuple[str, int], Record]] = defaultdict(dict)
    kept.sort(key=_when)
    defaults = _default_options(kept)
    for record in kept:
        groups[_group_key(record, defaults[record.method.name])][record.stream.name, record.seed] = record
    rows = [_row(list(group.values()), varied, varied_options) for group in groups.values()]
    return sorted(rows, key=lambda row: (row.stream, _place(row), row.recipe, row.label))


def _place(row: Row | None) -> float:
    """Return what rows are sorted by: the best OP first, none last."""
    return math.inf if row is None or row.op is None else -row.op


def _when(record: Record) -> str:
    return record.finished or ""


def _group_key(record: Record, defaults: Mapping[str, Any]) -> tuple[str, ...]:
    options = {
        **defaults,
        **record.method.options,
        **_tuned_settings(record),
    }  # defaults: what an earlier version does not name
    return (record.method.name, json.dumps(options, sort_keys=True), *_board_key(record))


def _default_options(records: Sequence[Record]) -> Mapping[str, Mapping[str, Any]]:
    """Return the defaults of each method's options, as far as the records tell; later records count more."""
    defaults: dict[str, dict[str, Any]] = defaultdict(dict)
    for record in records:
        method = record.method
        defaults[method.name] |= {name: v for name, v in method.options.items() if name not in method.changed_options}
    return defaults


def _board_key(record: Record) -> tuple[str, ...]:
    defaults = default_settings()  # what a record of an earlier version does not name
    recipe = {
        name: value
        for name, value in record.settings.items()
        if name not in (*NOT_RECIPE, *_tuned_settings(record), "data") and value != defaults.get(name)
    }
    tasks = sorted((task.name, task.version) for task in record.tasks)
    parts = (recipe, tasks, record.digests.questions, slug(record.setting("data")), record.protocol_version)
    return (record.stream.family, *(json.dumps(part, sort_keys=True) for part in parts))


def _tuned_settings(record: Record) -> dict[str, Any]:
    """Return the settings that tuning chose for the method, which part no boards: all on a board had the same budget."""
    return {} if record.setting("tuned") is None else {name: record.setting(name) for name in TUNED_SETTINGS}


def _varied_settings(records: Sequence[Record]) -> list[str]:
    known = {name: None for record in records for name in record.settings}
    names = [name for name in known if name not in (*NOT_RECIPE, *ALWAYS_SHOWN)]
    varied = [name for name in names if len({str(_setting(record, name)) for record in records}) > 1]
    return varied + [PROTOCOL] * (len({record.protocol_version for record in records}) > 1)


def _setting(record: Record, name: str) -> Any:
    """Return a setting or, as if it were one, the protocol version; none for one that is no more."""
    return record.protocol_version if name == PROTOCOL else record.all_settings.get(name)


def _varied_options(records: Sequence[Record]) -> set[tuple[str, str]]:
    """Return (method, option) where records of a method had other defaults: they change from version to version."""
    values = defaultdict(set)
    for record in records:
        for name, value in record.method.options.items():
            if name not in record.method.changed_options:
                values[record.method.name, name].add(str(value))
    return {key for key, found in values.items() if len(found) > 1}


def _row(records: Sequence[Record], varied: Sequence[str], varied_options: Set[tuple[str, str]]) -> Row:
    first = max(records, key=_when)  # the newest knows the method's present defaults
    op, op_std = _mean_and_std([record.metrics.op for record in records])
    bwt, bwt_std = _mean_and_std([record.metrics.bwt for record in records])
    return Row(
        method=first.method.name,
        options=changed_options(first, varied_options),
        stream=first.stream.family,
        backbone=slug(first.setting("backbone")),
        data=slug(first.setting("data")),
        recipe=recipe_text(first, varied),
        op=op,
        op_std=op_std,
        bwt=bwt,
        bwt_std=bwt_std,
        runs=len(records),
        marks=_marks_text(records),
        records=tuple(records),
        board="\n".join(_board_key(first)),
    )


def _marks_text(records: Sequence[Record]) -> str:
    """Return the marks of a row's records, each with the number of runs that have it where not all do."""
    counts = Counter(mark for record in records for mark in record.marks)
    parts = [
        mark if count == len(records) else f"{mark} ({count} of {counted(len(records), 'run')})"
        for mark, count in counts.items()
    ]
    return ", ".join(parts)


def _mean_and_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def measured_by(row: Row, column: str) -> tuple[float | None, float | None]:
    """Return mean and standard deviation of a column of `COLUMNS` over a row's runs; of probes only where all had the same."""
    if column in USUAL_COLUMNS:
        return (row.op, row.op_std) if column == "op" else (row.bwt, row.bwt_std)
    seen = {
        tuple((one.name, one.objective, one.rows, one.tokens, one.digest) for one in record.probes)
        for record in row.records
    }
    if column in ("probe", "questions") and len(seen) > 1:
        return None, None
    return _mean_and_std([measure_of(record, column) for record in row.records])


def check_columns(names: Sequence[str]) -> None:
    """Check that a leaderboard has columns of these names, each asked for once.

    Raises:
        ClbenchError: it has not.
    """
    for name in names:
        if name not in COLUMNS:
            raise unknown("column", name, COLUMNS)
    if len(set(names)) < len(names) or not names:
        raise ClbenchError(f"--columns takes some of {', '.join(COLUMNS)}, each once")


def changed_options(record: Record, varied: Set[tuple[str, str]] = frozenset()) -> str:
    """Return the options that differ from the method's defaults when it ran, as text.

    Args:
        varied: pairs of a method and an option to be named, too, since the default was another when records beside this one ran.
    """
    method = record.method
    shown = {
        name: value
        for name, value in method.options.items()
        if name in method.changed_options or (method.name, name) in varied
    }
    own_rate = method.about.learning_rate is not None
    chosen = {
        name: value for name, value in _tuned_settings(record).items() if not (own_rate and name == "learning_rate")
    }
    return options_text({name: rounded(value) for name, value in (shown | chosen).items()} if chosen else shown)


def rounded(value: Any) -> Any:
    """Return a number that a search came upon with three digits, anything else as it is."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def recipe_text(record: Record, varied: Sequence[str] = ()) -> str:
    """Return the recipe in a few words: backbone, data, epochs, learning rate (or how they were tuned), limits, what varies."""
    setting = record.setting
    on_validation = setting("evaluate_on") == "validation"
    asked = f"{setting('validation')} validation" if on_validation else setting("limit_test") or "all"
    parts = [
        slug(setting("backbone")),
        slug(setting("data")),
        f"{setting('limit_train') or 'all'}/{asked} rows",
    ]
    if setting("tuned") is None:
        parts += [f"{setting('epochs')} ep", f"lr {learning_rate(record):g}"]
    else:
        parts.append(f"tuned: {setting('tuned')}")
    parts += [
        f"{name}={value}" for name, value in WORTH_A_WORD.items() if setting(name) == value and name not in varied
    ]
    return ", ".join(parts + [options_text({name: _setting(record, name)}) for name in varied])


def learning_rate(record: Record) -> float:
    """Return the rate a record's weights were trained at: a method's own one wins over the setting."""
    own = record.method.about.learning_rate
    return float(record.setting("learning_rate") if own is None else own)


def format_score(mean: float | None, std: float | None) -> str:
    """Return a score for people: one decimal, the standard deviation where there is one, a dash for none."""
    if mean is None:
        return "-"
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def pivot(rows: Sequence[Row], title: str = "Leaderboard", columns: Sequence[str] = USUAL_COLUMNS) -> Sheet:
    """Return the leaderboard: one line a method and recipe, the best OP first; a family has OP, BWT and, assessed, p and rank.

    Args:
        columns: other ones, of `COLUMNS`, in place of OP and BWT.
    """
    families = sorted({row.stream for row in rows}, key=lambda name: (name != "standard", name))
    lines: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        number = 0
        while row.stream in lines.get((row.label, row.recipe, number), {}):
            number += 1
        lines.setdefault((row.label, row.recipe, number), {})[row.stream] = row
    assessed = any(row.standing for row in rows)
    header = ["Method"]
    for family in families:
        names = [*(COLUMNS[name] for name in columns), *(("p", "rank") if assessed else ())]
        header += [f"{STREAM_TITLES.get(family, family)} {name}" for name in names]
    table: list[list[str | Cell]] = []
    for (label, recipe, _), cells in sorted(lines.items(), key=lambda line: [_place(line[1].get(f)) for f in families]):
        line: list[str | Cell] = [label]
        for family in families:
            line += _cells_of(cells.get(family), columns, assessed)
        marks = {
            f"{STREAM_TITLES.get(name, name)}: {cell.marks}" if len(cells) > 1 else cell.marks: None
            for name, cell in cells.items()
            if cell.marks
        }
        runs = "+".join(str(cells[f].runs) for f in families if f in cells)
        table.append([*line, runs, "; ".join([recipe, *marks])])
    several = len({row.board for row in rows}) > len(families)
    probed = bool({"probe", "questions"} & set(columns))
    costly = bool(set(COSTS) & set(columns))
    said = ((RECIPES_NOTE, several), (SIGNIFICANCE_NOTE, assessed), (PROBE_NOTE, probed), (COST_NOTE, costly))
    notes = [note for note, holds in said if holds]
    return Sheet(title, [*header, "Runs", "Recipe"], table, notes=notes)


def _cells_of(row: Row | None, columns: Sequence[str], assessed: bool) -> list[str | Cell]:
    if row is None:
        return ["-"] * (len(columns) + 2 * assessed)
    cells: dict[str, str | Cell] = {name: _cell_of(row, name) for name in columns}
    standing = row.standing
    if standing is None:
        return [*cells.values(), *(["-", "-"] if assessed else [])]
    if "op" in cells:
        cells["op"] = Cell(f"{cells['op']} {format_interval(standing.op_low, standing.op_high)}", standing.mark)
    if "bwt" in cells:
        cells["bwt"] = f"{cells['bwt']} {format_interval(standing.bwt_low, standing.bwt_high)}".rstrip()
    return [
        *cells.values(),
        "-" if standing.p_value is None else f"{'<' if standing.p_below else ''}{standing.p_value:.3f}",
        "-" if standing.rank is None else str(standing.rank),
    ]


def _cell_of(row: Row, column: str) -> str:
    mean, std = measured_by(row, column)
    return format_score(mean, std) if column not in COSTS or mean is None else f"{mean:,.0f}"


def format_interval(low: float | None, high: float | None) -> str:
    """Return an interval for people, empty for none."""
    return "" if low is None or high is None else f"[{low:.1f}, {high:.1f}]"


def row_values(rows: Sequence[Row], columns: Sequence[str] = USUAL_COLUMNS) -> list[dict[str, Any]]:
    """Return the rows as plain values, for CSV and JSON; other columns and the standing's only where they were asked for."""
    standings = {number: asdict(row.standing) for number, row in enumerate(rows) if row.standing is not None}
    empty = dict.fromkeys(next(iter(standings.values()), {}))
    plain = [{name: value for name, value in vars(row).items() if name not in NOT_SHOWN} for row in rows]
    for row, values in zip(rows, plain, strict=True):
        for name in columns:
            values[name], values[f"{name}_std"] = measured_by(row, name)
    return [values | standings.get(number, empty) for number, values in enumerate(plain)]


def render(rows: Sequence[Row], style: str, width: int = 80, columns: Sequence[str] = USUAL_COLUMNS) -> str | Table:
    """Return the rows as a rich table, or as text in the style 'md', 'csv', 'latex' or 'json'."""
    if style == "csv":
        names = [name for name in Row.__dataclass_fields__ if name not in NOT_SHOWN]
        return csv_text(row_values(rows, columns), names)
    sheet = pivot(rows, columns=columns)
    return rich_sheet(sheet, width) if style == "table" else sheet_text(sheet, row_values(rows, columns), style)


def matrix_table(record: Record) -> Table:
    """Return a record's score matrix as a rich table: a row after each task, a column a task, by its number.

    Of many tasks the scores are rounded to whole numbers, so that 15 fit into 80 characters.
    """
    names = [task.name for task in record.tasks]
    digits = 1 if len(names) <= 8 else 0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("after", overflow="fold")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, (name, scores) in enumerate(zip(names, record.scores, strict=True), 1):
        table.add_row(f"{number} {name}", *("" if value is None else f"{value:.{digits}f}" for value in scores))
    return table


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard: `print` it, let a notebook show it, or take its `rows`, one a method, stream family and recipe."""

    entries: Sequence[Row]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Plain rows: method, options, stream, recipe, mean and standard deviation of OP and BWT in percent, number of runs."""
        return row_values(self.entries)

    def __str__(self) -> str:
        console = Terminal()
        with console.capture() as captured:
            console.print(render(self.entries, "table", console.width))
            for note in pivot(self.entries).notes:
                console.print(note)
        return captured.get().rstrip()

    def _repr_html_(self) -> str:
        import pandas  # here: slow to import

        sheet = pivot(self.entries)
        lines = [[cell if isinstance(cell, str) else cell.text for cell in line] for line in sheet.lines]
        notes = "".join(f"<p>{escape(note)}</p>" for note in sheet.notes)
        return f"{pandas.DataFrame(lines, columns=list(sheet.header)).to_html(index=False)}{notes}"


def leaderboard(records: Iterable[Record], stream: str | None = None) -> Leaderboard:
    """Compare runs: OP and BWT of each method, mean and standard deviation over orders and seeds, the best OP first.

    Only runs that agree in method, options, recipe, protocol version and test rows are averaged; of several records of the
    same order and seed the newest counts.

    Args:
        records: as `load_records` returns them, or any of `run`.
        stream: a stream ('long:1') or a family ('long') to keep.
    """
    return Leaderboard(make_rows(records, stream))
