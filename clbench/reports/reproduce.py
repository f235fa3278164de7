"""The runs behind a published table or figure: which of them are missing, what they cost, and the table with our numbers."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any, Protocol

from clbench.data.catalogue import known_streams
from clbench.data.tasks import Task
from clbench.discovery import PRINTED, Plugins
from clbench.errors import ClbenchError
from clbench.grid import Grid, MethodAxes
from clbench.names import match
from clbench.options import options_text
from clbench.records.files import RunFiles, readable_records, slug
from clbench.records.metrics import cells_to_evaluate
from clbench.records.record import Record
from clbench.records.summary import measure_of
from clbench.reports.comparison import differences
from clbench.reports.leaderboard import format_score, make_rows, recipe_text
from clbench.reports.plots.series import Series
from clbench.reports.published import Published
from clbench.reports.suites import DRAWS_MAPS, MEASURES, Column, Line, Scale, Suite
from clbench.reports.tables import Sheet
from clbench.settings import Settings, resolve_settings
from clbench.spec import RunSpec
from clbench.units import counted, duration

Estimator = Callable[[str, Settings, Sequence[Task]], float | None]  # method, settings, tasks -> seconds


class Opened(Protocol):
    """What planning asks of an opened run: its tasks, for the estimate, and its files."""

    @property
    def tasks(self) -> Sequence[Task]: ...

    @property
    def files(self) -> RunFiles: ...


class Opener(Protocol):
    """What opens runs (`clbench.running.opening.RunOpener`); handed in, so that reports need no model."""

    @property
    def plugins(self) -> Plugins: ...

    def open(self, spec: RunSpec) -> Opened: ...


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite: what is run, the files it leaves, and what it is estimated to take.

    `seconds` is none where no record of this backbone tells; with `log_maps` the run must have its maps beside the record.
    """

    spec: RunSpec
    files: RunFiles
    seconds: float | None = None
    log_maps: bool = False

    @property
    def is_done(self) -> bool:
        """Whether everything that is wanted of the run is there."""
        return self.files.are_complete(with_adapter=False, with_maps=self.log_maps)

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.files.are_begun


@dataclass(frozen=True)
class PlannedCell:
    """One cell of the table: its runs, or why there are none; `is_fault`: it is an error, and could be put right."""

    row: Line
    column: Column
    runs: Sequence[PlannedRun] = ()
    why_not: str = ""
    is_fault: bool = False

    @property
    def records(self) -> list[Record]:
        """The records of the runs that are done."""
        return list(readable_records(run.files.record for run in self.runs if run.is_done).values())


def plan_suite(
    suite: Suite,
    scale: Scale,
    opener: Opener,
    given: Mapping[str, Any],
    seeds: Sequence[int] = (),
    known: Sequence[Record] = (),
) -> list[PlannedCell]:
    """Return the cells of a suite with their runs; methods, options and streams that are not to be had are a reason, no error.

    Runs on the same data are opened one after another, whichever cells they are of: an opener keeps few data.

    Args:
        given: settings of the user, which win over the suite's.
        seeds: the seeds to run; none: as many as the scale says.
        known: records from whose times the cost is estimated.

    Raises:
        ClbenchError: the scale's data were not named, or a given setting is none.
    """
    if "data" not in {**scale.settings, **given}:
        raise ClbenchError(f"--scale {scale.name} needs --data FOLDER")
    resolve_settings(given)  # what the user gives must be right; what a suite asks for may not fit
    estimate = cost_estimator(known)
    drafts = [
        _Draft(row, column, _lack(row, column, scale, opener.plugins))
        for row, column in product(suite.rows, suite.columns)
    ]
    on_data: dict[tuple[str, int], list[tuple[_Draft, RunSpec]]] = defaultdict(list)
    for draft in drafts:
        for spec in draft.specs(scale, given, seeds or range(1, scale.seeds + 1), opener.plugins):
            on_data[spec.stream, spec.seed].append((draft, spec))
    for draft, spec in chain(*on_data.values()):
        draft.open(spec, opener, estimate, suite.draw in DRAWS_MAPS)
    return [draft.cell() for draft in drafts]


@dataclass
class _Draft:
    """A cell while it is planned; its first fault ends that."""

    row: Line
    column: Column
    lack: str
    fault: str = ""
    runs: list[PlannedRun] = field(default_factory=list)

    def specs(self, scale: Scale, given: Mapping[str, Any], seeds: Sequence[int], plugins: Plugins) -> list[RunSpec]:
        try:
            return [] if self.lack else cell_grid(self.row, self.column, scale, given, seeds).expand(plugins)
        except ClbenchError as error:
            self.fault = str(error)
            return []

    def open(self, spec: RunSpec, opener: Opener, estimate: Estimator, log_maps: bool) -> None:
        if self.fault:
            return
        try:
            opened = opener.open(spec)
        except ClbenchError as error:
            self.fault = str(error)
        else:
            seconds = estimate(spec.method, spec.settings, opened.tasks)
            self.runs.append(PlannedRun(spec, opened.files, seconds, log_maps))

    def cell(self) -> PlannedCell:
        runs = [] if self.fault else self.runs
        return PlannedCell(self.row, self.column, runs, self.lack or self.fault, bool(self.fault))


def _lack(row: Line, column: Column, scale: Scale, plugins: Plugins) -> str:
    """Return what is not there for a cell, and is no fault of anybody's."""
    if scale.name not in column.scales:
        return f"not at --scale {scale.name}"
    if match(row.method, plugins.methods, PRINTED) is None:
        return "not available"
    return "" if _streams(column.stream, scale) else f"no {column.stream} data at --scale {scale.name}"


def cell_grid(row: Line, column: Column, scale: Scale, given: Mapping[str, Any], seeds: Sequence[int]) -> Grid:
    """Return the runs of a cell: a grid of one method; of none where the scale has no data of the stream's family."""
    return Grid(
        methods=[MethodAxes(row.method, options_of(row, column, scale))],
        streams=_streams(column.stream, scale),
        seeds=seeds,
        settings={**scale.settings, **column.settings, **row.settings, **given},
    )


def options_of(row: Line, column: Column, scale: Scale) -> dict[str, Any]:
    """Return what a cell sets of its method's options: the scale, the column, the row, the last one wins."""
    return {**scale.options.get(row.method, {}), **column.options, **row.options}


def _streams(name: str, scale: Scale) -> list[str]:
    family = [known for known, stream in known_streams().items() if stream.family == name]
    return family[: scale.orders.get(name, 0)] if family else [name]


def cost_estimator(records: Sequence[Record]) -> Estimator:
    """Return a function that estimates a run's seconds from the medians of recorded times on the same backbone.

    It takes method, settings and tasks, and returns none where there is no record of that backbone.
    """
    learning: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    asking: dict[str, list[float]] = defaultdict(list)
    for record in records:
        backbone, times = slug(record.setting("backbone")), record.timings
        trained = sum(task.train or 0 for task in record.tasks) * record.setting("epochs")
        asked = sum(
            (task.test or 0) * sum(row[j] is not None for row in record.scores) for j, task in enumerate(record.tasks)
        )
        if times.learn_seconds and trained and asked:
            for name in (record.method.name, None):
                learning[backbone, name].append(sum(times.learn_seconds) / trained)
            asking[backbone].append(sum(map(sum, times.evaluate_seconds)) / asked)

    def estimate(method: str, settings: Settings, tasks: Sequence[Task]) -> float | None:
        backbone = slug(settings.backbone)
        rates = learning.get((backbone, method)) or learning.get((backbone, None))
        if not rates:
            return None
        rows = sum(len(task.train) for task in tasks) * settings.epochs
        cells = [j for i in range(len(tasks)) for j in cells_to_evaluate(settings.matrix, i, len(tasks))]
        questions = sum(len(tasks[j].test) for j in cells)
        return rows * statistics.median(rates) + questions * statistics.median(asking[backbone])

    return estimate


def missing_runs(cells: Sequence[PlannedCell]) -> list[PlannedRun]:
    """Return the runs that are not done, each once, in the order of the table but one backbone after another."""
    found = {run.files.record: run for cell in cells for run in cell.runs if not run.is_done}
    backbones = list(dict.fromkeys(run.spec.settings.backbone_arguments for run in found.values()))
    return sorted(found.values(), key=lambda run: backbones.index(run.spec.settings.backbone_arguments))


def unplanned(cells: Sequence[PlannedCell]) -> list[str]:
    """Return a line for each reason why cells have no runs, with their number."""
    reasons = Counter(cell.why_not for cell in cells if cell.why_not)
    return [f"{number} of {counted(len(cells), 'cell')} cannot be planned: {why}" for why, number in reasons.items()]


def failed_whole(cells: Sequence[PlannedCell]) -> bool:
    """Return whether an error leaves nothing of a suite to be run."""
    return any(cell.is_fault for cell in cells) and not any(cell.runs for cell in cells)


def check_planned(cells: Sequence[PlannedCell]) -> None:
    """Check that something of a suite can be run, or that it is no error if nothing can.

    Raises:
        ClbenchError: an error leaves nothing.
    """
    if failed_whole(cells):
        raise ClbenchError("; ".join(unplanned(cells)))


def duration_text(seconds: Sequence[float | None]) -> str:
    """Return the sum of estimates for people."""
    if None in seconds:
        return "an unknown time (no record of this backbone tells)"
    return f"about {duration(sum(value for value in seconds if value is not None))}"


def plan_sheet(suite: Suite, scale: Scale, cells: Sequence[PlannedCell]) -> tuple[Sheet, list[dict[str, Any]]]:
    """Return what a suite would do: one line a cell, with its runs, how many are done, and the estimate; also as values."""
    values: list[dict[str, Any]] = []
    for cell in cells:
        todo = [run for run in cell.runs if not run.is_done]
        values.append(
            {
                "row": cell.row.label,
                "method": cell.row.method,
                "column": cell.column.label or cell.column.key,
                "options": options_text(options_of(cell.row, cell.column, scale)),
                "streams": ", ".join(dict.fromkeys(run.spec.stream for run in cell.runs)),
                "seeds": ", ".join(dict.fromkeys(str(run.spec.seed) for run in cell.runs)),
                "runs": len(cell.runs),
                "done": len(cell.runs) - len(todo),
                "begun": sum(run.is_begun for run in todo),
                "seconds": None if any(run.seconds is None for run in todo) else sum(run.seconds or 0 for run in todo),
                "why_not": cell.why_not,
            }
        )
    faults = Counter(cell.why_not for cell in cells if cell.is_fault)
    lines = []
    for one in values:
        state = one["why_not"] or f"{one['done']} of {one['runs']} done" + (
            f", {one['begun']} begun" if one["begun"] else ""
        )
        if faults[one["why_not"]] > 1:
            state = "cannot be planned"  # why, is said once
        cost = "-" if one["why_not"] else duration_text([one["seconds"]]).split(" (")[0]
        lines.append(
            [one["row"], one["method"], one["column"], one["options"], one["streams"], one["seeds"], state, cost]
        )
    header = ["Row", "Method", "Column", "Options", "Streams", "Seeds", "State", "Missing takes"]
    notes = [] if failed_whole(cells) else unplanned(cells)  # else the error says it
    return Sheet(suite.title, header, lines, left=range(8), notes=notes), values


def suite_values(suite: Suite, cells: Sequence[PlannedCell], ledger: Sequence[Published]) -> list[dict[str, Any]]:
    """Return the table as values: one mapping a row, column and measure, ours (mean and std) and the published number."""
    values = []
    for cell in cells:
        entry, records = published_cell(suite, cell, ledger), cell.records
        for name in cell.column.measures:
            known = [value for record in records if (value := measure_of(record, name)) is not None]
            whole = len(known) == len(records) and known
            theirs = None if entry is None else vars(entry)[name]
            values.append(
                {
                    "row": cell.row.label,
                    "method": cell.row.method,
                    "column": cell.column.label or cell.column.key,
                    "measure": name,
                    "ours": statistics.fmean(known) if whole else None,
                    "std": statistics.stdev(known) if whole and len(known) > 1 else None,
                    "published": theirs,
                    "runs": len(records),
                    "wanted": len(cell.runs),
                    "why_not": cell.why_not,
                }
            )
    return values


def suite_series(cells: Sequence[PlannedCell]) -> list[Series]:
    """Return what is done of a suite, as a picture shows it.

    Raises:
        ClbenchError: nothing is.
    """
    found = [
        Series(
            cell.row.label,
            cell.records,
            cell.column.label or cell.column.key,
            [run.files.maps for run in cell.runs if run.is_done],
        )
        for cell in cells
        if any(run.is_done for run in cell.runs)
    ]
    if not found:
        raise ClbenchError("none of its runs is done")
    return found


def published_cell(suite: Suite, cell: PlannedCell, ledger: Sequence[Published]) -> Published | None:
    """Return the ledger's row of a cell, none where the paper's text has no number."""
    ours = {**cell.column.options, **cell.row.options}
    for entry in ledger:
        key = (entry.source.name, entry.table, entry.label, entry.column)
        same = all(ours.get(name, value) == value for name, value in entry.options.items())
        if key == (suite.source, suite.table, cell.row.key or cell.row.label, cell.column.key) and same:
            return entry
    return None


def suite_sheet(suite: Suite, scale: Scale, cells: Sequence[PlannedCell], ledger: Sequence[Published]) -> Sheet:
    """Return the paper's table in the paper's shape: in each cell our number, in parentheses the published one."""
    values = suite_values(suite, cells, ledger)
    kinds = [(column.label, name) for column in suite.columns for name in column.measures]
    header = ["Method", *(f"{label} {MEASURES[name]}".strip() for label, name in kinds)]
    of_row: dict[str, list[str]] = defaultdict(list)
    for one in values:
        theirs = "" if one["published"] is None else f" ({one['published']:.1f})"
        digits = (
            _minutes(one["ours"], one["std"])
            if one["measure"] == "minutes_per_epoch"
            else format_score(one["ours"], one["std"])
        )
        of_row[one["row"]].append(digits + theirs)
    lines = [[label, *texts] for label, texts in of_row.items()]
    theirs = f"In parentheses: {suite.table} of the paper ({suite.source}). " if suite.table else ""
    notes = [f"{theirs}Ours: --scale {scale.name}, {scale.about}."]
    return Sheet(suite.title, header, lines, left=(0,), notes=notes + suite_notes(suite, cells, ledger))


def _minutes(mean: float | None, std: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")


def suite_notes(suite: Suite, cells: Sequence[PlannedCell], ledger: Sequence[Published]) -> list[str]:
    """Return what a reader must know: what differs in protocol, what is missing, what cannot be had."""
    differing: dict[str, list[str]] = {}
    recipes = set()
    for cell in cells:
        entry, rows = published_cell(suite, cell, ledger), make_rows(cell.records)
        recipes |= {recipe_text(record) for record in cell.records}
        if entry is not None and len(rows) == 1:
            differing[f"{cell.row.label}, {cell.column.label}".removesuffix(", ")] = differences(rows[0], entry)
    shared = [text for text in next(iter(differing.values()), []) if all(text in texts for texts in differing.values())]
    notes = [f"Ours: {'; '.join(sorted(recipes))}."] if recipes else []
    if shared:
        notes.append(f"What differs in every row: {'; '.join(shared)}.")
    for label, texts in differing.items():
        own = [text for text in texts if text not in shared]
        if own:
            notes.append(f"{label}: {'; '.join(own)}.")
    reasons: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell.why_not and cell.row.method not in reasons[cell.why_not]:
            reasons[cell.why_not].append(cell.row.method)
    notes += [f"{why[:1].upper()}{why[1:]}: {', '.join(names)}." for why, names in reasons.items()]
    missing = missing_runs(cells)
    if missing:
        notes.append(f"Missing: {counted(len(missing), 'run')}, {duration_text([run.seconds for run in missing])}.")
    return notes
