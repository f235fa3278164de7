"""The commands about published tables: `clbench compare`, `rescore`, `reproduce`, `plot` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from clbench.reports.tables import show_sheet, style_option

if TYPE_CHECKING:
    from clbench.records.record import Record
    from clbench.reports.reproduce import PlannedCell, PlannedRun
    from clbench.reports.suites import Scale, Suite
    from clbench.running.opening import RunOpener

results_option = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), help="Folder of the records. [results]"
)
ledger_option = click.option("--ledger", type=click.Path(path_type=Path), help="Folder of published numbers. [ours]")
source_option = click.option("--source", default="rkif", help="Whose published numbers; all: one row a source. [rkif]")


@click.command()
@results_option
@click.option("--stream", help="Keep one stream (long:1) or family (long).")
@source_option
@ledger_option
@style_option
def compare(results: Path, stream: str | None, source: str, ledger: Path | None, style: str) -> None:
    """Set the recorded runs beside published numbers, and say what differs in protocol."""
    show_comparison(Console(), results, stream, source, ledger, style)


def show_comparison(
    console: Console, results: Path, stream: str | None, source: str, ledger: Path | None, style: str
) -> None:
    """Print the recorded runs beside published numbers."""
    from clbench.records.files import read_records
    from clbench.reports.comparison import compare_rows, compare_sheet
    from clbench.reports.leaderboard import make_rows
    from clbench.reports.published import read_ledger

    compared = compare_rows(make_rows(read_records(results), stream), read_ledger(ledger), source)
    show_sheet(console, compare_sheet(compared), compared, style)


@click.command()
@click.argument("record")
@results_option
@click.option(
    "--single", type=click.Path(path_type=Path), help="Folder with the tasks learned alone, for FWT. [the record's own]"
)
@click.option("--zero-shot", type=click.Path(path_type=Path), help="Record of a run that trained nothing, for FWT.")
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="A plugin with a metric.")
@style_option
def rescore(
    record: str, results: Path, single: Path | None, zero_shot: Path | None, plugins: tuple[Path, ...], style: str
) -> None:
    """Compute every measure of a record (a path, or a name in the results folder) again from its answers."""
    from clbench.data.answer_scores import METRICS
    from clbench.records.answers import answers_path, read_answers
    from clbench.records.files import read_record, read_records
    from clbench.reports.leaderboard import find_record
    from clbench.reports.rescore import measures, normalisations, rescore_sheets

    known = METRICS
    if plugins:
        from clbench.discovery import find_plugins

        known = find_plugins(plugins).metrics
    path = find_record(record, results)
    content = read_record(path)
    cells = read_answers(content, answers_path(path))
    untrained = None if zero_shot is None else read_record(zero_shot)
    found = measures(content, cells, read_records(single or path.parent), untrained, known)
    variants = normalisations(content, cells, known)
    values = [vars(one) for one in found]
    values += [{"name": f"{one['metric']} {name}", "value": one[name]} for one in variants for name in ("op", "bwt")]
    for number, sheet in enumerate(rescore_sheets(found, variants, path.name.removesuffix(".json"))):
        if number == 0 or style in ("table", "md", "latex"):
            show_sheet(Console(), sheet, values, style)


@click.command()
@click.argument("name", metavar="SUITE", required=False)
@results_option
@click.option("--scale", "scale_name", default="toy", metavar="toy|small|paper", help="How large. [toy]")
@click.option("--data", help="Data folder, toy or hub, as for `clbench run`.")
@click.option("--seeds", help="How many seeds (3), or which (1,2,5). [the scale's]")
@click.option("--limit", type=click.IntRange(1), help="Training and test rows per task. [the scale's]")
@click.option("--setting", "given", multiple=True, metavar="NAME=VALUE", help="Any setting of a run; repeatable.")
@click.option("--runs", "most", type=click.IntRange(0), help="Make at most so many of the missing runs now. [all]")
@click.option(
    "--plugin", "plugin_files", multiple=True, type=click.Path(path_type=Path), help="A plugin file; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and its cost; run nothing.")
@ledger_option
@style_option
def reproduce(
    name: str | None,
    results: Path,
    scale_name: str,
    data: str | None,
    seeds: str | None,
    limit: int | None,
    given: tuple[str, ...],
    most: int | None,
    plugin_files: tuple[Path, ...],
    dry_run: bool,
    ledger: Path | None,
    style: str,
) -> None:
    """Make the runs behind a published table or figure that are missing, and print it with our numbers.

    SUITE is table1 ... table10, figure3 ... figure9, or a TOML file like those in suites/; without one, list them.
    """
    from clbench.errors import unknown
    from clbench.reports.published import read_ledger
    from clbench.reports.reproduce import missing_runs, plan_sheet, suite_sheet, suite_values
    from clbench.reports.suites import read_scales, read_suite, suite_names

    console = Console()
    if name is None:
        for known in suite_names():
            console.print(f"{known:10} {read_suite(known).title}", highlight=False)
        return
    suite, scales, published = read_suite(name), read_scales(), read_ledger(ledger)
    if scale_name not in scales:
        raise unknown("scale", scale_name, scales)
    scale = scales[scale_name]
    settings = _suite_settings(data, limit, given)
    opener = _opener(plugin_files, results)
    cells = _plan(suite, scale, opener, settings, seeds)
    missing = missing_runs(cells)
    if dry_run:
        sheet, values = plan_sheet(suite, scale, cells)
        show_sheet(console, sheet, values, style)
        _say_cost(console, missing, style)
        return
    if missing:
        _say_cost(console, missing, style)
        _run_missing(Console(stderr=style != "table"), missing[:most], opener)
    show_sheet(console, suite_sheet(suite, scale, cells, published), suite_values(suite, cells, published), style)
    if suite.draw:
        _draw_suite(Console(stderr=style != "table"), suite, cells, results / f"{suite.name}_{scale.name}.png")


def _suite_settings(data: str | None, limit: int | None, given: tuple[str, ...]) -> dict[str, Any]:
    from clbench.cli.main import parse_assignments

    limits = {} if limit is None else {"limit_train": str(limit), "limit_test": str(limit)}
    return {**({} if data is None else {"data": data}), **limits, **parse_assignments(given)}


def _opener(plugin_files: tuple[Path, ...], results: Path) -> RunOpener:
    from clbench.discovery import find_plugins
    from clbench.running.opening import RunOpener

    return RunOpener(find_plugins(plugin_files), results)


def _plan(suite: Suite, scale: Scale, opener: RunOpener, given: dict[str, Any], seeds: str | None) -> list[PlannedCell]:
    from clbench.cli.main import parse_seeds
    from clbench.reports.reproduce import plan_suite

    results = opener.results
    folders = [results, *(path for path in results.glob("**/") if path != results)] if results.is_dir() else []
    known = [record for folder in folders if not folder.name.endswith(".adapter") for record in _readable(folder)]
    chosen = [] if seeds is None else parse_seeds(seeds)
    return plan_suite(suite, scale, opener, given, chosen, known)


def _readable(folder: Path) -> list[Record]:
    """Return the records of a folder from which times are taken; what is no record is passed over."""
    from clbench.errors import ClbenchError
    from clbench.records.files import read_record

    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_record(path))
        except ClbenchError:
            continue
    return found


def _say_cost(console: Console, missing: list[PlannedRun], style: str) -> None:
    from clbench.reports.reproduce import duration_text

    if style == "table":
        cost = duration_text([run.seconds for run in missing])
        text = f"{len(missing)} runs are missing: {cost}" if missing else "nothing is missing"
        console.print(text, highlight=False)


def _run_missing(console: Console, missing: list[PlannedRun], opener: RunOpener) -> None:
    from clbench.running.grid import RunMaker

    log_maps = any(run.log_maps for run in missing)
    RunMaker(console, opener, log_maps=log_maps).make_all([run.spec for run in missing])


def _draw_suite(console: Console, suite: Suite, cells: list[PlannedCell], file: Path) -> None:
    """Draw the picture of a suite from what is done, and say where it is, or why there is none."""
    from clbench.errors import ClbenchError
    from clbench.reports.plots.kinds import draw, save
    from clbench.reports.reproduce import suite_series

    try:
        save(draw(suite.draw, suite_series(cells), suite.title), file)
    except ClbenchError as error:
        console.print(f"no picture: {error}", style="yellow", highlight=False, markup=False)
    else:
        console.print(f"picture: {file}", highlight=False, markup=False)


@click.command()
@click.argument("kind", required=False)
@click.argument("records", metavar="[RECORD]...", nargs=-1)
@results_option
@click.option("--stream", help="Keep one stream (long:1) or family (long).")
@click.option("--method", "methods", multiple=True, help="Keep one method; repeatable. [all]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PNG, SVG or PDF, by its suffix. [KIND.png]")
def plot(
    kind: str | None,
    records: tuple[str, ...],
    results: Path,
    stream: str | None,
    methods: tuple[str, ...],
    output: Path | None,
) -> None:
    """Draw recorded runs; without a KIND, list the kinds of pictures.

    RECORD is a path, or a name in the results folder; without one, all records of the folder are drawn. Runs of one method that
    differ in order and seed alone are averaged, as on the leaderboard.
    """
    from clbench.errors import unknown
    from clbench.records.files import read_record, record_paths
    from clbench.reports.leaderboard import find_record
    from clbench.reports.plots.kinds import KINDS, check_kind, draw, file_format, save
    from clbench.reports.plots.series import series_of

    console = Console()
    if kind is None:
        for name, about in KINDS.items():
            console.print(f"{name:10} {about}", highlight=False)
        return
    check_kind(kind)
    file = output or Path(f"{kind}.png")
    file_format(file)
    paths = [find_record(name, results) for name in records] or record_paths(results)
    found = {path: read_record(path) for path in paths}
    known = {record.method.name for record in found.values()}
    for name in methods:
        if name not in known:
            raise unknown("recorded method", name, sorted(known))
    kept = {path: record for path, record in found.items() if record.method.name in (methods or known)}
    save(draw(kind, series_of(kept, kind, stream)), file)
    console.print(f"{file}", highlight=False, markup=False)


@click.command()
@results_option
@click.option("--stream", help="Keep one stream (long:1) or family (long).")
@source_option
@ledger_option
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), help="[report.html]")
def report(results: Path, stream: str | None, source: str, ledger: Path | None, output: Path) -> None:
    """Write one HTML page about a results folder: tables, pictures, recipes, audit verdicts, environment. It opens offline."""
    from clbench.atomic import write_atomically
    from clbench.reports.published import read_ledger

    console = Console()
    with console.status("making the report"):
        from clbench.reports.page import make_report

        page = make_report(results, read_ledger(ledger), source, stream)
    write_atomically(output, lambda path: path.write_text(page, "utf-8"))
    console.print(f"{output}", highlight=False, markup=False)
