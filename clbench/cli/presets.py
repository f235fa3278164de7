"""The command about presets: `clbench presets`."""

from __future__ import annotations

import click
from rich.table import Table

from clbench.options import format_value
from clbench.settings import find_preset, list_settings, load_presets, resolve_settings
from clbench.terminal import Terminal

SHOWN = ("backbone", "learning_rate", "epochs", "batch_size", "max_input", "lora_targets", "quantize")


@click.command()
@click.argument("name", required=False)
def presets(name: str | None) -> None:
    """List the presets, or every value of one."""
    known = load_presets()
    console = Terminal()
    if name is None:
        table = Table("Preset", *(title.replace("_", " ").capitalize() for title in SHOWN))
        for one in known:
            if ":" not in one:
                values = vars(resolve_settings({}, one))
                table.add_row(one, *(format_value(values[title]) for title in SHOWN))
        console.print(table)
        return
    console.print(_values(find_preset(name)))
    console.print(
        "Every value can be overridden: --learning-rate 1e-4. Memory and the like are options of a method: clbench methods NAME",
        highlight=False,
    )


def _values(name: str) -> Table:
    """Return every setting of a preset; those that the preset itself gives are marked."""
    known, (base, _, family) = load_presets(), name.partition(":")
    given = {**known[base], **(known[name] if family else {})}
    values = vars(resolve_settings({"stream": f"{family}:1"} if family else {}, base))
    table = Table("Setting", "Value", "From", "Meaning", title=f"preset {name}", title_justify="left")
    for option in list_settings().values():
        if option.name not in ("stream", "seed"):
            origin = name if option.name in known[name] else base if option.name in given else "default"
            table.add_row(option.name, format_value(values[option.name]), origin, option.note)
    return table
