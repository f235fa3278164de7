"""The command that makes a paper's tables again: `clbench reproduce`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clbench.cli import completion
from clbench.cli.parameters import (
    engine_options,
    ledger_option,
    log_options,
    parse_assignments,
    parse_seeds,
    plugin_option,
    results_option,
    style_option,
)
from clbench.errors import ClbenchError, unknown
from clbench.logs import LogSettings
from clbench.names import match
from clbench.placing import Placing
from clbench.reports.tables import Sheet, show_sheet
from clbench.terminal import Terminal
from clbench.units import counted

if TYPE_CHECKING:
    from clbench.records.record import Record
    from clbench.reports.reproduce import PlannedCell, PlannedRun
    from clbench.reports.suites import Scale, Suite
    from clbench.running.opening import RunOpener
    from clbench.running.sweep import SweepRun


@click.command()
@click.argument("name", metavar="SUITE", required=False, shell_complete=completion.suites)
@results_option
@click.option("--scale", "scale_name", default="toy", metavar="toy|small|paper", help="How large. [toy]")
@click.option("--data", help="Data folder, toy or hub, as for `clbench run`.")
@click.option("--seeds", help="How many seeds (3), or which (1,2,5). [the scale's]")
@click.option("--limit", type=click.IntRange(1), help="Training and test rows per task. [the scale's]")
@click.option("--setting", "given", multiple=True, metavar="NAME=VALUE", help="Any setting of a run; repeatable.")
@click.option("--runs", "most", type=click.IntRange(0), help="Make at most so many of the missing runs now. [all]")
@plugin_option
@click.option("--dry-run", is_flag=True, help="Show the plan and its cost; run nothing.")
@ledger_option
@engine_options
@log_options
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
    plugins: tuple[Path, ...],
    dry_run: bool,
    ledger: Path | None,
    placing: Placing,
    logs: LogSettings,
    style: str,
) -> None:
    """Make the runs behind a published table or figure that are missing, and print it with our numbers.

    SUITE is table1 ... table10, figure3 ... figure9, or a TOML file like those in suites/; without one, list them.
    """
    from clbench.reports.published import read_ledger
    from clbench.reports.reproduce import check_planned, missing_runs, plan_sheet, suite_sheet, suite_values
    from clbench.reports.suites import read_scales, read_suite, suite_names

    console = Terminal()
    if name is None:
        listed = {known: read_suite(known).title for known in suite_names()}
        sheet = Sheet("", ["Suite", "Title"], list(listed.items()))
        show_sheet(console, sheet, [{"suite": known, "title": title} for known, title in listed.items()], style)
        return
    suite, scales, published = read_suite(name), read_scales(), read_ledger(ledger)
    found = match(scale_name, scales)
    if found is None:
        raise unknown("scale", scale_name, scales)
    scale = scales[found]
    settings = _suite_settings(data, limit, given)
    opener = _opener(plugins, results)
    cells = _plan(suite, scale, opener, settings, seeds)
    missing = missing_runs(cells)
    if dry_run:
        sheet, values = plan_sheet(suite, scale, cells)
        show_sheet(console, sheet, values, style)
    check_planned(cells)
    if dry_run:
        _say_cost(console, cells, missing, style)
        return
    failures: Mapping[SweepRun, str] = {}
    if missing:
        from clbench.running.many import make_runs
        from clbench.running.sweep import SweepRun
        from clbench.running.worker import Setup

        _say_cost(console, cells, missing, style)
        log_maps = any(run.log_maps for run in missing)
        setup = Setup(str(results), tuple(str(path) for path in plugins), log_maps=log_maps, logs=logs)
        runs = [SweepRun(run.spec, run.files) for run in missing[:most]]
        failures = make_runs(Terminal(stderr=style != "table"), runs, setup, placing)
    show_sheet(console, suite_sheet(suite, scale, cells, published), suite_values(suite, cells, published), style)
    if suite.draw:
        _draw_suite(Terminal(stderr=style != "table"), suite, cells, results / f"{suite.name}_{scale.name}.png")
    if failures:
        from clbench.running.many import failed

        raise failed(failures, len(missing[:most]))


def _suite_settings(data: str | None, limit: int | None, given: tuple[str, ...]) -> dict[str, Any]:
    limits = {} if limit is None else {"limit_train": str(limit), "limit_test": str(limit)}
    return {**({} if data is None else {"data": data}), **limits, **parse_assignments(given)}


def _opener(plugins: tuple[Path, ...], results: Path) -> RunOpener:
    from clbench.discovery import find_plugins
    from clbench.running.opening import RunOpener

    return RunOpener(find_plugins(plugins), results)


def _plan(suite: Suite, scale: Scale, opener: RunOpener, given: dict[str, Any], seeds: str | None) -> list[PlannedCell]:
    from clbench.reports.reproduce import plan_suite

    results = opener.results
    folders = [results, *(path for path in results.glob("**/") if path != results)] if results.is_dir() else []
    known = [record for folder in folders if not folder.name.endswith(".adapter") for record in _readable(folder)]
    chosen = [] if seeds is None else parse_seeds(seeds)
    return plan_suite(suite, scale, opener, given, chosen, known)


def _readable(folder: Path) -> list[Record]:
    """Return the records of a folder from which times are taken; what is no record is passed over."""
    from clbench.records.files import read_record

    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_record(path))
        except ClbenchError:
            continue
    return found


def _say_cost(console: Terminal, cells: list[PlannedCell], missing: list[PlannedRun], style: str) -> None:
    from clbench.reports.reproduce import duration_text

    if style != "table":
        return
    if missing:
        cost, verb = duration_text([run.seconds for run in missing]), "is" if len(missing) == 1 else "are"
        console.print(f"{counted(len(missing), 'run')} {verb} missing: {cost}")
    elif any(cell.runs for cell in cells):
        console.print("nothing else is missing" if any(cell.why_not for cell in cells) else "nothing is missing")


def _draw_suite(console: Terminal, suite: Suite, cells: list[PlannedCell], file: Path) -> None:
    """Draw the picture of a suite from what is done, and say where it is, or why there is none."""
    from clbench.reports.plots.kinds import draw, save
    from clbench.reports.reproduce import suite_series

    try:
        save(draw(suite.draw, suite_series(cells), suite.title), file)
    except ClbenchError as error:
        console.print(f"no picture: {error}", style="yellow")
    else:
        console.print(f"picture: {file}")
