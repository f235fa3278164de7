"""What several commands take: shared options, and the values that their texts stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clbench.errors import ClbenchError
from clbench.reports.tables import STYLES

MOST_SEEDS = 1000  # of `--seeds N`


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


PATH = PathType()

plugin_option = click.option("--plugin", "plugins", multiple=True, type=PATH, help="A plugin file; repeatable.")
set_option = click.option(
    "--set", "given", multiple=True, metavar="OPTION=VALUE", help="An option of the method; repeatable."
)
results_option = click.option("--results", type=PATH, default=Path("results"), help="Folder of the records. [results]")
stream_option = click.option("--stream", help="Keep one stream (long:1) or family (long).")
style_option = click.option("--format", "style", type=click.Choice(STYLES), default="table", help="[table]")
ledger_option = click.option("--ledger", type=PATH, help="Folder of published numbers. [ours]")
source_option = click.option("--source", default="rkif", help="Whose published numbers; all: one row a source. [rkif]")


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
