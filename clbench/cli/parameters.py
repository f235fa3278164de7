"""What several commands take: shared options, and the values that their texts stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from clbench.cli import completion
from clbench.errors import ClbenchError
from clbench.logs import LogSettings
from clbench.placing import Placing
from clbench.reports.tables import STYLES
from clbench.tracking import TRACKERS
from clbench.units import Every

MOST_SEEDS = 1000  # of `--seeds N`
RANGE = re.compile("([0-9]{1,9})(?:-([0-9]{1,9}))?")


class PathType(click.ParamType[Path]):
    """A path that the system can take."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path.

        Raises:
            ClbenchError: the text is empty or holds a NUL character.
        """
        text = str(value)
        if not text or "\0" in text:
            label = param.get_error_hint(ctx) if param is not None and ctx is not None else "a path"
            raise ClbenchError(f"{label} takes a path, not {text!r}")
        return Path(text)


class EveryType(click.ParamType[Every]):
    """How often: a time, or a number of steps."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Every:
        """Return the value.

        Raises:
            ClbenchError: the text says no time and no number of steps.
        """
        try:
            return value if isinstance(value, Every) else Every.parse(str(value))
        except ValueError as error:
            label = param.get_error_hint(ctx) if param is not None and ctx is not None else "a time"
            raise ClbenchError(f"{label}: {error}") from None


class ListOption(click.Option):
    """An option that may be given several times; its value is what was given, separated by commas, as it stands in a file."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Return one text."""
        return value if isinstance(value, str) else ",".join(map(str, value or ()))

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the text, none where nothing is given."""
        return super().process_value(ctx, value) or None

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Return the variable as it stands."""
        return self.resolve_envvar_value(ctx)


PATH = PathType()

every_option = click.option(
    "--checkpoint-every",
    type=EveryType(),
    default="10m",
    help="Within a task, write down where it stands so often: 10m, 90s, '100 steps'; none: after tasks alone. [10m]",
)
plugin_option = click.option(
    "--plugin", "plugins", multiple=True, type=PATH, help="A plugin file, or a folder of them; repeatable."
)
track_option = click.option(
    "--track",
    multiple=True,
    type=click.Choice(TRACKERS),
    help="Show the runs in this tracker, too; repeatable (an extra each: clbench[wandb]).",
)
set_option = click.option(
    "--set", "given", multiple=True, metavar="OPTION=VALUE", help="An option of the method; repeatable."
)
results_option = click.option("--results", type=PATH, default=Path("results"), help="Folder of the records. [results]")
stream_option = click.option(
    "--stream", shell_complete=completion.streams, help="Keep one stream (long:1) or family (long)."
)
style_option = click.option("--format", "style", type=click.Choice(STYLES), default="table", help="[table]")
json_option = click.option("--format", "style", type=click.Choice(("table", "json")), default="table", help="[table]")
ledger_option = click.option("--ledger", type=PATH, help="Folder of published numbers. [ours]")
source_option = click.option("--source", default="rkif", help="Whose published numbers; all: one row a source. [rkif]")

_ENGINE = (
    click.option("--engine", type=click.Choice(("local", "ray", "slurm")), default="local", help="[local]"),
    click.option(
        "--jobs", type=click.IntRange(1), default=1, help="Local: worker processes, which share the cores. [1]"
    ),
    click.option("--retries", type=click.IntRange(0), default=2, help="How often a failed run is tried again. [2]"),
    click.option("--address", help="Ray: the cluster's address. [start Ray on this machine]"),
    click.option("--cpus-per-run", type=click.FloatRange(0, min_open=True), help="Ray, SLURM: CPUs of a run. [1]"),
    click.option(
        "--gpus-per-run", type=click.FloatRange(0), help="Ray, SLURM: GPUs of a run, 0.25: four share one. [0]"
    ),
    click.option("--slurm", multiple=True, metavar="NAME=VALUE", help="SLURM: a parameter of submitit; repeatable."),
)
_LOGS = (
    click.option("-q", "--quiet", is_flag=True, help="Log warnings alone."),
    click.option("-v", "--verbose", is_flag=True, help="Log more: every task that is asked."),
    click.option("--log-format", type=click.Choice(("text", "json")), default="text", help="Of log lines. [text]"),
    click.option("--log-file", type=click.Path(dir_okay=False), help="Log into this file, too."),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of engines; it takes them as one value, `placing`."""

    @wraps(command)
    def call(*, slurm: tuple[str, ...], **others: Any) -> Any:
        chosen = {field.name: others.pop(field.name) for field in fields(Placing) if field.name != "slurm"}
        return command(placing=Placing(slurm=parse_assignments(slurm), **chosen), **others)

    for option in reversed(_ENGINE):
        call = option(call)
    return call


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of log lines, and let them have effect; it takes them as one value, `logs`."""

    @wraps(command)
    def call(*, quiet: bool, verbose: bool, log_format: Any, log_file: str | None, **others: Any) -> Any:
        if quiet and verbose:
            raise ClbenchError("give -q or -v, not both")
        logs = LogSettings(verbose - quiet, log_format, log_file)
        logs.apply()
        return command(logs=logs, **others)

    for option in reversed(_LOGS):
        call = option(call)
    return call


def parse_numbers(text: str) -> list[int] | None:
    """Return the numbers of '1,5-7'; none where the text is no such list, or names more than 1000."""
    found: list[int] = []
    for part in filter(None, map(str.strip, text.split(","))):
        ends = RANGE.fullmatch(part)
        if ends is None or int(ends[2] or ends[1]) - int(ends[1]) not in range(MOST_SEEDS):
            return None
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return found if 0 < len(found) <= MOST_SEEDS else None


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of '3' (1, 2, 3), '1,5,7' or '4-6'.

    Raises:
        ClbenchError: the text is neither a number from 1 to 1000 nor a list of distinct numbers.
    """
    numbers = parse_numbers(text)
    if numbers and ("," in text or "-" in text):
        if len(set(numbers)) == len(numbers):
            return numbers
    elif numbers and 1 <= numbers[0] <= MOST_SEEDS:
        return list(range(1, numbers[0] + 1))
    raise ClbenchError(f"--seeds takes how many (3) or which (1,2,5 or 4-6; a single one as '7,'), not {text!r}")


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
