"""The command that chooses a method's settings and options on validation rows: `clbench tune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from clbench.cli.parameters import (
    PATH,
    engine_options,
    log_options,
    parse_assignments,
    parse_seeds,
    plugin_option,
    set_option,
)
from clbench.cli.run import choose_streams, setting_options
from clbench.cli.sweep import grid_of, name_of
from clbench.errors import ClbenchError
from clbench.terminal import Terminal
from clbench.units import duration

if TYPE_CHECKING:
    from clbench.discovery import Plugins
    from clbench.grid import Grid
    from clbench.logs import LogSettings
    from clbench.placing import Placing
    from clbench.running.opening import RunOpener
    from clbench.running.study import StudySpec
    from clbench.running.sweep import SweepRun

SEED = 11  # by default: none of a table's 1, 2, 3
ROWS = "100"  # a task, carved out of its training rows
JUDGED = {"evaluate_on": "validation", "matrix": "lower"}


@click.command()
@click.argument("file", metavar="[GRID.toml]", required=False, type=PATH)
@click.option("--method", "methods", help="Methods separated by commas.")
@click.option("--all", "every", is_flag=True, help="All methods.")
@click.option("--order", help="The order to tune on, 1-9: not one of the final table.")
@click.option("--stream", help="The stream to tune on: a name, a stream file, or task names separated by commas.")
@set_option
@click.option("--preset", help="A named set of settings (tasks/presets.toml). [the backbone's, if there is one]")
@click.option("--trials", type=click.IntRange(1), default=20, help="How many, of each method. [20]")
@click.option("--seeds", help=f"Seeds of each trial: how many (3), or which (11,12). Not those of the table. [{SEED}]")
@click.option("--objective", type=click.Choice(("op", "op+bwt")), default="op", help="[op]")
@click.option("--output", type=PATH, help="The tuned preset. [RESULTS/tuned.toml]")
@click.option(
    "--results", type=PATH, default=Path("results/tuning"), help="Folder of trials and runs. [results/tuning]"
)
@plugin_option
@click.option("--dry-run", is_flag=True, help="Only say what would be searched, and what is done.")
@click.option("--calibrate", is_flag=True, help="With --dry-run: the time, too, from a short run of each method.")
@engine_options
@log_options
@setting_options
def tune(
    file: Path | None,
    methods: str | None,
    every: bool,
    order: str | None,
    stream: str | None,
    given: tuple[str, ...],
    preset: str | None,
    trials: int,
    seeds: str | None,
    objective: str,
    output: Path | None,
    results: Path,
    plugins: tuple[Path, ...],
    dry_run: bool,
    calibrate: bool,
    placing: Placing,
    logs: LogSettings,
    **settings: str | None,
) -> None:
    """Tune methods with equal budgets, on validation rows carved out of the training rows, and write a tuned preset.

    Each trial is a run with other values of learning rate, epochs and the options that the method declares a search space for
    (`clbench methods NAME`); a memory's size is a budget and is not searched. The first trial is what applies without a search. A
    trial that is below the median after a task is ended. Killed, the same command goes on, and ends with as many trials;
    several processes may work on one study. GRID.toml: methods with fixed options, a stream and settings, as for
    `clbench sweep`.
    """
    if file is None and order is None and stream is None:
        raise ClbenchError("name what to tune on with --order or --stream: not an order of the final table")
    if every and methods is not None:
        raise ClbenchError("--all takes every method; leave out --all or --method")
    console = Terminal()
    values = {name: value for name, value in settings.items() if value is not None}
    for name in ("evaluate_on", "tuned"):
        if name in values:
            raise ClbenchError(f"clbench tune sets '{name}' itself; leave it out")
    with console.status("loading the plugins"):
        from clbench.discovery import find_plugins
        from clbench.running.opening import RunOpener
        from clbench.running.tuning import need_optuna

        need_optuna()
        found = find_plugins(plugins)
    if every:
        methods = ",".join(found.methods)
    streams = None if order is None and stream is None else [name_of(one) for one in choose_streams(order, stream)]
    parts = {"streams": streams, "preset": preset, "seeds": [SEED] if seeds is None and file is None else None}
    parts |= {"seeds": parse_seeds(seeds)} if seeds is not None else {}
    parts |= {"plugins": [str(path) for path in plugins] or None}
    grid = grid_of(file, methods, parse_assignments(given), values, {k: v for k, v in parts.items() if v is not None})
    found = find_plugins(grid.plugins) if file is not None else found
    judged: dict[str, Any] = {
        "trials": trials,
        "objective": objective,
        "output": str((output or results / "tuned.toml").absolute()),
    }
    studies = [replace(one, **judged) for one in studies_of(grid, found)]
    runs = _open(console, studies, RunOpener(found, results), placing)
    if dry_run:
        _show_plan(console, runs, RunOpener(found, results), calibrate)
        return
    from clbench.running.many import failed, make_runs
    from clbench.running.worker import Setup

    setup = Setup(str(results), tuple(grid.plugins), logs=logs)
    failures = make_runs(console, runs, setup, placing)
    if failures:
        raise failed(failures, len(runs))
    console.print(f"{judged['output']}: use it with --preset", highlight=False)


def studies_of(grid: Grid, plugins: Plugins) -> list[StudySpec]:
    """Return the studies of a grid, one a method; what the grid gives of options is not searched.

    Raises:
        ClbenchError: the grid has several streams, a list of values, or a name that there is not.
    """
    from clbench.data.streams import find_stream
    from clbench.running.study import StudySpec

    if len(grid.streams) > 1:
        raise ClbenchError(f"clbench tune takes one stream, not {len(grid.streams)}: {', '.join(grid.streams)}")
    settings = {"validation": ROWS, **grid.settings, **JUDGED}
    studies = []
    for axes in grid.methods:
        specs = replace(grid, methods=[axes], settings=settings, seeds=grid.seeds[:1]).expand(plugins)
        if len(specs) != 1:
            raise ClbenchError(f"clbench tune takes one value of each option and setting of '{axes.name}', no lists")
        [spec] = specs
        fixed = tuple((name, spec.options[name]) for name in axes.options if name in spec.options)
        preset, order = grid.preset, find_stream(grid.streams[0]).order
        made = StudySpec(spec.method, spec.options, spec.settings, fixed, preset, order, tuple(grid.seeds))
        studies.append(made)
    return studies


def _open(console: Terminal, studies: Sequence[StudySpec], opener: RunOpener, placing: Placing) -> list[SweepRun]:
    """Return the studies with their files; as many of each as there are workers for."""
    from clbench.running.study import open_study, shares
    from clbench.running.sweep import SweepRun

    with console.status("opening the studies"):
        workers = placing.jobs if placing.engine == "local" else 1
        files = {study: open_study(study, opener) for study in studies}
        return [
            SweepRun(share, files[study])
            for study in studies
            for share in shares(study, max(1, workers // len(studies)))
        ]


def _show_plan(console: Terminal, runs: Sequence[SweepRun], opener: RunOpener, calibrate: bool) -> None:
    from clbench.running.dry_run import forecast
    from clbench.running.study import StudySpec, search_space

    table = Table("Method", "Searched", "Trials", "Done", "Takes at most", title="Dry run: tune", title_justify="left")
    total = 0.0
    for run in runs:
        study: Any = run.spec
        assert isinstance(study, StudySpec)
        if study.share:
            continue
        method = opener.plugins.method(study.method)
        searched = ", ".join(axis.name.removeprefix("option.") for axis in search_space(method, study))
        seconds = 0.0
        if calibrate:
            with console.status(f"calibrating {study.method}"):
                specs = [study.run(study.options, seed) for seed in study.seeds]
                seconds = study.trials * forecast(specs, opener, False).seconds
        total += seconds
        done = "yes" if run.files.are_complete(False, False) else "no"
        label = str(study).removeprefix("tune ")
        table.add_row(label, searched, str(study.trials), done, duration(seconds) if calibrate else "-")
    console.print(table)
    if calibrate:
        console.print(
            f"time: {duration(total)} if no trial is ended and all have the preset's epochs, one after another"
        )
