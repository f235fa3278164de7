"""The command about presets: `clbench presets`."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from clbench.cli import completion
from clbench.cli.parameters import json_option
from clbench.options import format_value
from clbench.settings import find_preset, list_settings, load_presets, resolve_settings
from clbench.terminal import Terminal, json_text, say
from clbench.tuned import read_tuned, shipped_presets

SHOWN = ("backbone", "learning_rate", "epochs", "batch_size", "max_input", "lora_targets", "quantize")


@click.command()
@click.argument("name", required=False, shell_complete=completion.presets)
@json_option
def presets(name: str | None, style: str) -> None:
    """List the presets, or every value of one."""
    known = load_presets()
    console = Terminal()
    if style == "json":
        of_all = {one: _values(one) for one in (known if name is None else [find_preset(name)])}
        say(json_text([{"preset": one, **row} for one, rows in of_all.items() for row in rows]))
        return
    if name is None:
        table = Table("Preset", *(title.replace("_", " ").capitalize() for title in SHOWN))
        for one in known:
            if ":" not in one:
                values = vars(resolve_settings({}, one))
                table.add_row(one, *(format_value(values[title]) for title in SHOWN))
        console.print(table)
        for path, file in shipped_presets().items():
            found = read_tuned(file)
            what = f"tuned for {found[0].budget.backbone}, {found[0].note}, {len(found)} rows of methods"
            console.print(f"--preset {path}: {what}", highlight=False)
        return
    chosen = find_preset(name)
    table = Table("Setting", "Value", "From", "Meaning", title=f"preset {chosen}", title_justify="left")
    for row in _values(chosen):
        table.add_row(row["setting"], format_value(row["value"]), row["from"], row["meaning"])
    console.print(table)
    console.print(
        "Every value can be overridden: --learning-rate 1e-4. Memory and the like are options of a method: clbench methods NAME",
        highlight=False,
    )


def _values(name: str) -> list[dict[str, Any]]:
    """Return every setting of a preset, with its value and where that is from."""
    known, (base, _, family) = load_presets(), name.partition(":")
    given = {**known[base], **(known[name] if family else {})}
    values = vars(resolve_settings({"stream": f"{family}:1"} if family else {}, base))
    rows = []
    for option in list_settings().values():
        if option.name not in ("stream", "seed"):
            origin = name if option.name in known[name] else base if option.name in given else "default"
            row = {"setting": option.name, "value": values[option.name], "from": origin, "meaning": option.note}
            rows.append(row)
    return rows
