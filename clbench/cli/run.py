"""The command that runs a method: `clbench run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from clbench.cli import completion
from clbench.cli.config import ConfiguredCommand, config_option, merged_options, show_config, stronger
from clbench.cli.parameters import (
    ListOption,
    every_option,
    json_option,
    log_options,
    parse_assignments,
    parse_numbers,
    parse_seeds,
    plugin_option,
    results_option,
    set_option,
    track_option,
)
from clbench.cli.records import show_leaderboard
from clbench.data.catalogue import known_streams
from clbench.data.own_streams import check_metrics, own_data
from clbench.data.probes import EMBEDDED
from clbench.data.streams import find_stream, find_streams
from clbench.data.tasks import Stream
from clbench.errors import ClbenchError, unknown
from clbench.logs import LogSettings
from clbench.options import Option
from clbench.settings import Settings, list_settings, settle_settings
from clbench.spec import make_spec
from clbench.terminal import Terminal, json_text, say
from clbench.tracking import Tracking
from clbench.units import Every, counted

SEVERAL = ("probe", "probe_questions")  # settings that name several things, each of which may have the flag of its own
_NAMED_OTHERWISE = ("stream", "seed")  # settings that `run` offers in its own way


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option per setting; unset ones are None."""
    for name, option in reversed(list(list_settings().items())):
        if name not in _NAMED_OTHERWISE:
            flag = f"--{name.replace('_', '-')}"
            shown = f"{option.note} [{option.default_text}]"
            alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.types == (bool,) else {}
            if name in SEVERAL:
                alone = {"cls": ListOption, "multiple": True}
            if name == "probe":
                alone |= {"is_flag": False, "flag_value": EMBEDDED}
            command = click.option(flag, name, metavar=_metavar(option), help=shown, **alone)(command)
    return command


def _metavar(option: Option) -> str:
    if option.types == (bool,):
        return "[true|false]"
    return "|".join([*map(str, option.choices), *(kind.__name__.upper() for kind in option.types)])


@click.command(cls=ConfiguredCommand)
@config_option
@click.option("--show-config", "only_show", is_flag=True, help="Only print every value, and where it comes from.")
@click.option(
    "--method", "method_name", shell_complete=completion.methods, help="The method's name (`clbench methods`)."
)
@click.option("--order", shell_complete=completion.orders, help="The order's number, 1-9; or several: 1-3 or 1,5-6.")
@click.option(
    "--stream",
    shell_complete=completion.streams,
    help="A stream's name (long:1), a family (long: all its streams), a stream file of your own (my.toml), or task names "
    "separated by commas. [long:1]",
)
@click.option(
    "--shuffle-order", metavar="SEEDS", help="Learn the tasks in an order drawn by this seed (7), or in several (1-3)."
)
@set_option
@click.option(
    "--preset", shell_complete=completion.presets, help="A named set of settings. [the backbone's, if there is one]"
)
@click.option("--seeds", default="1", help="How many seeds to run (3), or which (1,2,5). [1]")
@plugin_option
@results_option
@click.option("--force", is_flag=True, help="Repeat a finished run; do not go on from a checkpoint.")
@click.option("--save-adapter", is_flag=True, help="Save the trained adapter in PEFT format beside the record.")
@click.option("--dry-run", is_flag=True, help="Only say what it would take: steps, time, memory, disk.")
@click.option(
    "--log-maps",
    is_flag=True,
    help="Log importance and task vectors, for `clbench plot maps` (clbench/records/maps.py).",
)
@track_option
@every_option
@log_options
@json_option
@setting_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    config: Path | None,
    only_show: bool,
    method_name: str | None,
    order: str | None,
    stream: str | None,
    shuffle_order: str | None,
    given: tuple[str, ...],
    preset: str | None,
    seeds: str,
    plugins: tuple[Path, ...],
    results: Path,
    force: bool,
    save_adapter: bool,
    dry_run: bool,
    log_maps: bool,
    track: tuple[str, ...],
    checkpoint_every: Every,
    logs: LogSettings,
    style: str,
    **settings: str | None,
) -> None:
    """Run one method on one or several streams and print the leaderboard.

    Defaults are in brackets; a preset (`clbench presets`) may say otherwise. A value may also stand in a file (--config) or in
    the environment: CLBENCH_RUN_EPOCHS for --epochs. The command line wins, then the file, the environment, the preset.
    """
    if method_name is None:
        raise ClbenchError("name a method with --method, or in a file with --config (`clbench methods` lists them)")
    chosen = shuffle(choose_streams(*stronger(ctx, "order", "stream")), shuffle_order)
    values = {name: value for name, value in settings.items() if value is not None}
    wanted = [
        {**values, **own_data(one, values), "stream": one.name, "seed": seed}
        for one in chosen
        for seed in parse_seeds(seeds)
    ]
    settle_settings(values, {})  # here: it is quick to refuse
    if "," in method_name:
        raise ClbenchError(
            f"clbench run takes one method; `clbench sweep make --method {method_name} ...` takes several"
        )
    tracking = Tracking(tuple(dict.fromkeys(track)), method_name if len(wanted) > 1 else None)
    console = Terminal(stderr=style == "json")
    for one in chosen:
        console.print(f"Stream {one}")
    with console.status("loading the plugins"):
        from clbench.discovery import find_plugins

        found = find_plugins(plugins)
    for one in chosen:
        check_metrics(one, found.metrics)
    method = found.method(method_name)
    options = parse_assignments(merged_options(ctx, given))
    specs = [make_spec(method, options, one, preset) for one in wanted]
    if only_show:
        show_config(console, ctx, specs[0], preset, style)
        return
    from clbench.records.collection import run_rows
    from clbench.records.files import RunFiles
    from clbench.running.opening import RunOpener

    devices = ctx.obj.devices
    opener = RunOpener(found, results)
    if dry_run and style == "json":
        raise ClbenchError("`clbench run --dry-run` is a table alone; `clbench sweep --dry-run --format json` is not")
    if dry_run:
        if devices is not None:
            raise ClbenchError("--dry-run is for one process; start it without torchrun")
        from clbench.running.dry_run import show_dry_run

        show_dry_run(console, specs, opener, force, save_adapter)
        return
    from clbench.model.devices import ALONE
    from clbench.running.maker import RunMaker

    maker = RunMaker(console, opener, force, save_adapter, log_maps, devices or ALONE, checkpoint_every, tracking)
    made, failures = maker.make_all(specs) if len(specs) > 1 else ([maker.make(specs[0])], {})
    if devices is not None and not devices.first:
        return
    paths = [RunFiles(results, record.name).record for record in made]
    if style == "json":
        say(json_text([{"record": str(p), **row} for p, one in zip(paths, made, strict=True) for row in run_rows(one)]))
    elif made:
        show_leaderboard(console, results, chosen[0].family if len({s.family for s in chosen}) == 1 else None)
    for path in paths:
        if not path.exists():
            raise ClbenchError(
                f"{path}: this record was written, and removed by another program; run the command again"
            )
    if failures:
        why, error = next(iter(failures.items()))
        raise ClbenchError(f"{len(failures)} of {counted(len(specs), 'run')} failed; the first: {why}") from error


def choose_streams(order: str | None, stream: str | None) -> list[Stream]:
    """Return the streams that `--order` (4; 1-3; 1,5-6) or `--stream` asks for; the default is order 4.

    Raises:
        ClbenchError: both are given and differ, or one is unknown.
    """
    if order is None:
        return find_streams(stream or Settings.stream)
    chosen = list(dict.fromkeys(find_stream(number) for number in _orders(order)))
    if stream is not None and find_streams(stream) != chosen:
        raise ClbenchError(f"--order {order} is {', '.join(s.name for s in chosen)}, not --stream {stream}; give one")
    return chosen


def shuffle(streams: Sequence[Stream], seeds: str | None) -> list[Stream]:
    """Return the streams in the orders that `--shuffle-order` draws, each once; without it as they are.

    Raises:
        ClbenchError: it names no seeds.
    """
    if seeds is None:
        return list(streams)
    numbers = parse_numbers(seeds)
    if not numbers:
        raise ClbenchError(f"--shuffle-order takes seeds, 7 or 1-3 or 1,5-6, not '{seeds}'")
    return [stream.shuffled(number) for stream in streams for number in numbers]


def _orders(text: str) -> list[str]:
    known = {str(one.order): one for one in known_streams().values()}
    numbers = parse_numbers(text)
    for number in text.split(",") if numbers is None else map(str, numbers):
        if number.strip() not in known:
            raise unknown("order", number.strip(), known)
    return [str(number) for number in numbers or ()]
