"""The command line. Torch is imported only inside the commands that train."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clbench import __version__
from clbench.cli.data_commands import audit, streams
from clbench.cli.paper_commands import compare, plot, report, reproduce, rescore, show_comparison
from clbench.cli.preset_commands import presets
from clbench.data.catalogue import known_streams, task_specs
from clbench.data.own_streams import check_metrics
from clbench.data.streams import find_stream
from clbench.data.tasks import Stream
from clbench.errors import ClbenchError, unknown
from clbench.options import Option
from clbench.records.summary import disagreement_text
from clbench.reports.tables import style_option
from clbench.settings import Settings, list_settings, resolve_settings
from clbench.spec import RunSpec

RESULTS = "results"
MOST_SEEDS = 1000  # of `--seeds N`
_NAMED_OTHERWISE = ("stream", "seed")  # settings that `run` offers in its own way


class Command(click.Group):
    """A group whose commands end in one line and exit code 2 on a user's error, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClbenchError as error:
            if ctx.params.get("traceback"):
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on after the last finished task", err=True)
            sys.exit(130)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="clbench")
@click.option("--traceback", is_flag=True, help="On an error, show the Python traceback.")
def main(traceback: bool) -> None:
    """Run and compare continual-learning methods on language models."""


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option per setting; unset ones are None."""
    for name, option in reversed(list(list_settings().items())):
        if name not in _NAMED_OTHERWISE:
            flag = f"--{name.replace('_', '-')}"
            shown = f"{option.note} [{option.default_text}]"
            alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.types == (bool,) else {}
            command = click.option(flag, name, metavar=_metavar(option), help=shown, **alone)(command)
    return command


def _metavar(option: Option) -> str:
    if option.types == (bool,):
        return "[true|false]"
    return "|".join([*map(str, option.choices), *(kind.__name__.upper() for kind in option.types)])


def plugin_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--plugin FILE.py`, repeatable."""
    return click.option(
        "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="A plugin file; repeatable."
    )(command)


def results_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--results DIR`."""
    return click.option(
        "--results", type=click.Path(path_type=Path), default=Path(RESULTS), help="Folder of the records. [results]"
    )(command)


main.add_command(streams)
main.add_command(audit)
main.add_command(compare)
main.add_command(rescore)
main.add_command(reproduce)
main.add_command(plot)
main.add_command(report)
main.add_command(presets)


@main.command()
@click.option("--method", "method_name", required=True, help="The method's name (`clbench methods`).")
@click.option("--order", help="The paper's order number, 1-8; several separated by commas.")
@click.option(
    "--stream",
    help="A stream's name (long:1), a stream file of your own (my.toml), or task names separated by commas. [long:1]",
)
@click.option("--set", "given", multiple=True, metavar="OPTION=VALUE", help="An option of the method; repeatable.")
@click.option("--preset", help="A named set of settings (tasks/presets.toml). [the backbone's, if there is one]")
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
@setting_options
def run(
    method_name: str,
    order: str | None,
    stream: str | None,
    given: tuple[str, ...],
    preset: str | None,
    seeds: str,
    plugins: tuple[Path, ...],
    results: Path,
    force: bool,
    save_adapter: bool,
    dry_run: bool,
    log_maps: bool,
    **settings: str | None,
) -> None:
    """Run one method on one or several streams and print the leaderboard.

    Defaults are in brackets; a preset (`clbench presets`) may say otherwise.
    """
    chosen = choose_streams(order, stream)
    values = {name: value for name, value in settings.items() if value is not None}
    resolved = [
        resolve_settings({**values, **own_data(one, values), "stream": one.name, "seed": seed}, preset)
        for one in chosen
        for seed in parse_seeds(seeds)
    ]
    console = Console()
    for one in chosen:
        console.print(f"Stream {one}", highlight=False)
    with console.status("loading the plugins"):
        from clbench.discovery import find_plugins

        found = find_plugins(plugins)
    for one in chosen:
        check_metrics(one, found.metrics)
    method = found.method(method_name)
    options = method.resolve_options(parse_assignments(given))
    specs = [RunSpec(method.name, options, one) for one in resolved]
    from clbench.running.opening import RunOpener

    opener = RunOpener(found, results)
    if dry_run:
        from clbench.running.dry_run import show_dry_run

        show_dry_run(console, specs, opener, force, save_adapter)
        return
    from clbench.running.grid import RunMaker

    maker = RunMaker(console, opener, force, save_adapter, log_maps)
    for spec in specs:
        maker.make(spec)
    show_leaderboard(console, results, chosen[0].family if len({s.family for s in chosen}) == 1 else None)


def own_data(stream: Stream, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting `data` of a user's stream: its file.

    Raises:
        ClbenchError: `--data` or `--layout` is given beside it.
    """
    if stream.read is None:
        return {}
    for name in ("data", "layout"):
        if name in values:
            raise ClbenchError(f"stream '{stream.name}' names its own files; leave out --{name}")
    return {"data": str(stream.file)}


def choose_streams(order: str | None, stream: str | None) -> list[Stream]:
    """Return the streams that `--order` or `--stream` asks for; the default is order 4.

    Raises:
        ClbenchError: both are given and differ, or one is unknown.
    """
    by_order = {str(known.order): known for known in known_streams().values()}
    for number in (order or "").split(",") if order else []:
        if number.strip() not in by_order:
            raise unknown("order", number.strip(), by_order)
    if order is None:
        return [find_stream(stream or Settings.stream)]
    chosen = [by_order[number.strip()] for number in order.split(",")]
    if stream is not None and [find_stream(stream)] != chosen:
        raise ClbenchError(f"--order {order} is {', '.join(s.name for s in chosen)}, not --stream {stream}; give one")
    return chosen


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of '3' (1, 2, 3) or '1,5,7'.

    Raises:
        ClbenchError: the text is neither a number from 1 to 1000 nor a list of distinct numbers.
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," in text and numbers and len(set(numbers)) == len(numbers) and min(numbers) >= 0:
        return numbers
    if "," not in text and numbers and 1 <= numbers[0] <= MOST_SEEDS:
        return list(range(1, numbers[0] + 1))
    raise ClbenchError(f"--seeds takes how many (3) or which (1,2,5; a single one as '7,'), not {text!r}")


def parse_assignments(given: tuple[str, ...]) -> dict[str, str]:
    """Return `--set` texts as a dict.

    Raises:
        ClbenchError: a text has no '=', or an option is set twice.
    """
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ClbenchError(f"--set takes OPTION=VALUE, not {text!r}")
        if name.strip() in values:
            raise ClbenchError(f"--set {name.strip()!r} is given twice")
        values[name.strip()] = value
    return values


@main.command()
@click.argument("name", required=False)
@plugin_option
def methods(name: str | None, plugins: tuple[Path, ...]) -> None:
    """List the methods, or the options of one method."""
    from clbench.discovery import find_plugins

    found = find_plugins(plugins)
    console = Console()
    if name is None:
        table = Table("Method", "What it does", "From")
        for method in found.methods.values():
            table.add_row(method.name, method.summary, method.origin)
    else:
        method = found.method(name)
        console.print(f"{method.name}: {method.summary}", highlight=False)
        table = option_table(method.options, method.about.variants)
    console.print(table)


def option_table(options: Mapping[str, Option], variants: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what options declare, one a line; columns that would be empty are left out."""
    lines = [
        (one.name, one.type_name, one.range_text, one.default_text, str(one.search or ""), one.note)
        for one in options.values()
    ]
    if variants:
        names = list(variants)
        lines.insert(0, ("variant", "|".join(names), "", names[0], "", "a named set of the options below"))
    titles = ("Option", "Type", "Range", "Default", "Search", "Meaning")
    kept = [number for number in range(len(titles)) if any(line[number] for line in lines)] or [0]
    table = Table(*(titles[number] for number in kept))
    for line in lines:
        table.add_row(*(escape(line[number]) for number in kept))
    if not lines:
        table.add_row("(none)")
    return table


@main.command("check-method")
@click.argument("name")
@click.option("--set", "given", multiple=True, metavar="OPTION=VALUE", help="An option of the method; repeatable.")
@plugin_option
@click.option("--threads", type=click.IntRange(1), default=1, help="CPU threads. [1]")
@click.pass_context
def check_method(
    context: click.Context, name: str, given: tuple[str, ...], plugins: tuple[Path, ...], threads: int
) -> None:
    """Check a method in seconds: it learns, resumes, reloads, and reads no old data; exit code 1 if it does not."""
    console = Console()
    with console.status("loading the plugins"):
        from clbench.discovery import find_plugins

        found = find_plugins(plugins)
    method = found.method(name)
    options = method.resolve_options(parse_assignments(given))
    method.build(options)
    with console.status(f"checking {name} on two tiny tasks"):
        import torch

        from clbench.checking.battery import check_method

        torch.set_num_threads(threads)
        findings = check_method(found, method, options)
    table = Table("Check", "", title=f"{name}: {method.origin}", title_justify="left")
    for finding in findings:
        table.add_row(
            finding.check, Text(finding.fault, "red") if finding.fault else Text(f"✓ {finding.note}", "green")
        )
    console.print(table)
    context.exit(int(any(finding.fault for finding in findings)))


@main.command()
@results_option
@click.option("--stream", help="Keep one stream (long:1) or family (long).")
@style_option
@click.option("--significance", is_flag=True, help="Intervals, p-values and ranks, from the stored answers.")
@click.option("--published", is_flag=True, help="Beside published numbers: the same as `clbench compare`.")
def leaderboard(results: Path, stream: str | None, style: str, significance: bool, published: bool) -> None:
    """Compare the recorded runs: OP and BWT, mean and standard deviation over orders and seeds."""
    from clbench.records.files import read_records

    known = {s.name for s in known_streams().values()} | {s.family for s in known_streams().values()}
    known |= {record.stream.name for record in read_records(results)} if stream and results.is_dir() else set()
    if stream is not None and stream not in known and any(name not in task_specs() for name in stream.split(",")):
        raise unknown("stream", stream, sorted(known))
    if published:
        show_comparison(Console(), results, stream, "rkif", None, style)
    else:
        show_leaderboard(Console(), results, stream, style, significance)


def show_leaderboard(
    console: Console, results: Path, stream: str | None, style: str = "table", significance: bool = False
) -> None:
    """Print the leaderboard of a results folder."""
    from clbench.records.files import read_records
    from clbench.reports.leaderboard import SIGNIFICANCE_NOTE, make_rows, render

    rows = make_rows(read_records(results), stream)
    if significance:
        from clbench.reports.significance import assess  # here: numpy is slow to import

        rows = assess(rows, results)
    text = render(rows, style, console.width)
    if isinstance(text, str):
        click.echo(text)
    else:
        console.print(text)
        if significance:
            console.print(SIGNIFICANCE_NOTE, highlight=False, markup=False)


@main.command()
@click.argument("record")
@results_option
def show(record: str, results: Path) -> None:
    """Show one record (a path, or a name in the results folder): its scores after each task."""
    from clbench.records.files import read_record
    from clbench.reports.leaderboard import (
        changed_options,
        cost_text,
        environment_text,
        find_record,
        matrix_table,
        recipe_text,
    )

    content = read_record(find_record(record, results))
    console = Console()
    chosen = [content.stream.name, recipe_text(content), changed_options(content)]
    console.print(f"{content.name}: {', '.join(filter(None, chosen))}", highlight=False)
    console.print(f"{content.method.name}: score on each task (column) after learning (row)", highlight=False)
    console.print(matrix_table(content))
    measures = {"op": content.metrics.op, "bwt": content.metrics.bwt, "forgetting": content.metrics.forgetting}
    values = [f"{name} {value:.2f}" for name, value in measures.items() if value is not None]
    console.print(", ".join(values), highlight=False)
    for text in filter(None, (disagreement_text(content), cost_text(content))):
        console.print(text, highlight=False)
    console.print(environment_text(content), highlight=False)
    for note in content.notes:
        console.print(note, highlight=False, markup=False)
