"""The commands that make many runs: `clbench sweep GRID.toml`, `sweep new` and `sweep status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from clbench.cli import completion
from clbench.cli.parameters import (
    engine_options,
    every_option,
    json_option,
    log_options,
    parse_assignments,
    parse_seeds,
    plugin_option,
    results_option,
    set_option,
    track_option,
)
from clbench.cli.run import choose_streams, setting_options
from clbench.errors import ClbenchError
from clbench.grid import NEW_GRID, Grid, MethodAxes, read_grid
from clbench.options import options_text
from clbench.terminal import Terminal, json_text, say
from clbench.units import counted

if TYPE_CHECKING:
    from clbench.logs import LogSettings
    from clbench.placing import Placing
    from clbench.running.opening import RunOpener
    from clbench.running.sweep import SweepRun
    from clbench.spec import RunSpec
    from clbench.units import Every

MAKE = "make"


class SweepCommands(click.Group):
    """Commands of which the first one, `make`, need not be named: `clbench sweep GRID.toml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = [MAKE, *args]
        return super().parse_args(ctx, args)


@click.group(cls=SweepCommands, subcommand_metavar="[make] GRID.toml|OPTIONS | new FILE | status GRID.toml")
def sweep() -> None:
    """Make the missing runs of a grid: methods x options x streams x seeds x settings.

    `clbench sweep new grid.toml` writes a grid to fill in, `clbench sweep grid.toml` makes its runs, and
    `clbench sweep make --help` has all options. Started again, it goes on; several machines may share a results folder.
    """


@sweep.command(MAKE)
@click.argument("file", metavar="[GRID.toml]", required=False, type=click.Path(path_type=Path))
@click.option("--method", "methods", shell_complete=completion.methods, help="Methods separated by commas.")
@click.option("--order", shell_complete=completion.orders, help="The orders' numbers, 1-9: 4, 1-3 or 1,5-6.")
@click.option(
    "--stream",
    shell_complete=completion.streams,
    help="A stream's name, a family (long), a stream file, or task names separated by commas.",
)
@set_option
@click.option(
    "--preset", shell_complete=completion.presets, help="A named set of settings. [the backbone's, if there is one]"
)
@click.option("--seeds", help="How many seeds to run (3), or which (1,2,5). [1]")
@plugin_option
@results_option
@click.option("--save-adapter", is_flag=True, help="Save the trained adapters in PEFT format beside the records.")
@click.option("--log-maps", is_flag=True, help="Log importance and task vectors, for `clbench plot maps`.")
@click.option("--dry-run", is_flag=True, help="Only say how many runs there are, and which of them are done.")
@click.option("--calibrate", is_flag=True, help="With --dry-run: time and memory, too, from a short run of each kind.")
@track_option
@every_option
@engine_options
@log_options
@json_option
@setting_options
def make(
    file: Path | None,
    methods: str | None,
    order: str | None,
    stream: str | None,
    given: tuple[str, ...],
    preset: str | None,
    seeds: str | None,
    plugins: tuple[Path, ...],
    results: Path,
    save_adapter: bool,
    log_maps: bool,
    track: tuple[str, ...],
    checkpoint_every: Every,
    dry_run: bool,
    calibrate: bool,
    placing: Placing,
    logs: LogSettings,
    style: str,
    **settings: str | None,
) -> None:
    """Make the missing runs of a grid; what is given beside a file replaces what the file says.

    The exit code is 2 if runs failed. Defaults of settings are in brackets; a preset (`clbench presets`) may say otherwise.
    """
    streams = None if order is None and stream is None else [name_of(one) for one in choose_streams(order, stream)]
    values = {name: value for name, value in settings.items() if value is not None}
    parts: dict[str, Any] = {
        "streams": streams,
        "seeds": None if seeds is None else parse_seeds(seeds),
        "preset": preset,
        "plugins": [str(path) for path in plugins] or None,
        "track": track or None,
    }
    grid = grid_of(file, methods, parse_assignments(given), values, {k: v for k, v in parts.items() if v is not None})
    console = Terminal(stderr=style != "table")
    opener, runs = _open(console, grid, results)
    from clbench.running.worker import Setup

    shared = Setup(str(results), tuple(grid.plugins), save_adapter, log_maps, logs=logs, every=checkpoint_every)
    setup = replace(shared, tracking=grid.tracking)
    if dry_run:
        _show_plan(console, runs, setup.is_done, style)
        missing = [run.spec for run in runs if not setup.is_done(run.files)]
        if calibrate and missing:
            _show_forecast(Terminal(stderr=style != "table"), missing, opener, save_adapter, placing.jobs)
        return
    if calibrate:
        raise ClbenchError("--calibrate belongs to --dry-run")
    from clbench.running.many import failed, make_runs

    failures = make_runs(console, runs, setup, placing)
    if style == "json":
        say(json_text(_values(runs, setup.is_done)))
    if failures:
        raise failed(failures, len(runs))


def name_of(stream: Any) -> str:
    """Return what `find_stream` finds a stream by: its file, if it is a user's, or its name."""
    return str(stream.file) if stream.read is not None else stream.name


def grid_of(
    file: Path | None,
    methods: str | None,
    options: Mapping[str, str],
    settings: Mapping[str, str],
    parts: Mapping[str, Any],
) -> Grid:
    """Return the grid of a file, of options, or of both."""
    if file is None and methods is None:
        raise ClbenchError("name a grid's file, or methods with --method (`clbench sweep new FILE` writes a grid)")
    axes = None if methods is None else [MethodAxes(name.strip(), options) for name in methods.split(",")]
    if axes is None and options:
        raise ClbenchError("--set needs --method; in a file, options stand with their method")
    if file is None:
        assert axes is not None
        return Grid(axes, settings=settings, **parts, name=methods or "")
    grid = read_grid(file)
    own = [replace(one, settings={k: v for k, v in one.settings.items() if k not in settings}) for one in grid.methods]
    return replace(grid, methods=axes or own, settings={**grid.settings, **settings}, **parts)


def _open(console: Terminal, grid: Grid, results: Path) -> tuple[RunOpener, list[SweepRun]]:
    with console.status("opening the runs"):
        from clbench.discovery import find_plugins
        from clbench.running.opening import RunOpener
        from clbench.running.sweep import open_runs

        found = find_plugins(grid.plugins)
        opener = RunOpener(found, results)
        return opener, open_runs(grid.expand(found), opener)


def _show_plan(console: Terminal, runs: Sequence[SweepRun], is_done: Any, style: str) -> None:
    values = _values(runs, is_done)
    if style == "json":
        say(json_text(values))
        return
    table = Table("Method", "Stream", "Seeds", "Runs", "Done", "Differs in", title="Dry run", title_justify="left")
    varying = _varying(runs)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number, run in enumerate(runs):
        shown = {**run.spec.recorded_settings, **run.spec.options}
        differs = options_text({name: shown[name] for name in varying if name in shown})
        groups.setdefault((run.spec.method, run.spec.stream, differs), []).append(number)
    for (method, stream, differs), numbers in groups.items():
        seeds = ", ".join(str(runs[number].spec.seed) for number in numbers)
        done = sum(values[number]["state"] == "done" for number in numbers)
        table.add_row(method, stream, seeds, str(len(numbers)), str(done), differs)
    console.print(table)
    console.print(_counts(values))


def _show_forecast(
    console: Terminal, missing: Sequence[RunSpec], opener: RunOpener, save_adapter: bool, jobs: int
) -> None:
    from clbench.running.dry_run import forecast
    from clbench.units import duration, size

    with console.status("calibrating each kind of run"):
        found = forecast(missing, opener, save_adapter)
    console.print(f"time: about {duration(found.seconds)} on {found.device}, one run after another")
    console.print(f"memory: {size(found.memory)} a worker, {size(found.memory * jobs)} with --jobs {jobs}")
    console.print(f"disk: {size(found.disk)}")


def _varying(runs: Sequence[SweepRun]) -> list[str]:
    """Return the options and settings in which runs of one method differ."""
    seen: dict[tuple[str, str], set[Any]] = {}
    for run in runs:
        for name, value in {**run.spec.recorded_settings, **run.spec.options}.items():
            seen.setdefault((run.spec.method, name), set()).add(value)
    return list(dict.fromkeys(name for (_, name), values in seen.items() if len(values) > 1))


def _values(runs: Sequence[SweepRun], is_done: Any) -> list[dict[str, Any]]:
    from clbench.records.states import state_of_run

    return [
        {
            "run": run.files.name,
            "method": run.spec.method,
            "stream": run.spec.stream,
            "seed": run.spec.seed,
            "options": dict(run.spec.options),
            "settings": run.spec.recorded_settings,
            **state_of_run(run.files, is_done(run.files)).as_dict(),
        }
        for run in runs
    ]


def _counts(values: Sequence[Mapping[str, Any]]) -> str:
    from clbench.records.states import STATES

    counts = Counter(value["state"] for value in values)
    return f"{counted(len(values), 'run')}: " + ", ".join(
        f"{counts[state]} {state}" for state in STATES if counts[state]
    )


@sweep.command()
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path))
def new(file: Path) -> None:
    """Write a commented grid to fill in."""
    from clbench.atomic import write_atomically

    if file.exists():
        raise ClbenchError(f"'{file}' is there already; give another name")
    if file.suffix != ".toml":
        raise ClbenchError(f"'{file}' does not end in .toml")
    write_atomically(file, lambda path: path.write_text(NEW_GRID, "utf-8"))
    say(f"{file}: fill it in, then `clbench sweep {file} --dry-run`")


@sweep.command()
@click.argument("file", metavar="GRID.toml", type=click.Path(path_type=Path))
@results_option
@click.option("--log-maps", is_flag=True, help="A run counts as done with its maps alone.")
@click.option("--save-adapter", is_flag=True, help="A run counts as done with its adapter alone.")
@json_option
def status(file: Path, results: Path, log_maps: bool, save_adapter: bool, style: str) -> None:
    """Show which runs of a grid are done, running (where, since when, how far), failed (why), or missing."""
    console = Terminal()
    grid = read_grid(file)
    _, runs = _open(Terminal(stderr=True), grid, results)
    from clbench.running.worker import Setup

    values = _values(runs, Setup(str(results), save_adapter=save_adapter, log_maps=log_maps).is_done)
    if style == "json":
        say(json_text(values))
        return
    table = Table("Run", "State", "Where, how far, why")
    for run, value in zip(runs, values, strict=True):
        if value["state"] in ("running", "failed", "begun"):
            table.add_row(str(run.spec), value["state"], _detail(value))
    if table.row_count:
        console.print(table)
    console.print(_counts(values))


def _detail(value: Mapping[str, Any]) -> str:
    """Return what there is to say of a running or a failed run."""
    if value["state"] != "running":
        return (value["failure"] or "").rpartition("\n")[2]
    import time

    from clbench.records.heartbeat import Position
    from clbench.units import duration

    position = Position(**{name: value[name] for name in Position.__struct_fields__})
    since = duration(time.time() - value["since"])
    return f"{value['host']}, process {value['process']}, for {since}: {position.text}"
