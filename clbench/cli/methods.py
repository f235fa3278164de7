"""The commands about methods: `clbench methods` and `clbench check-method`."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table
from rich.text import Text

from clbench.cli import completion
from clbench.cli.parameters import json_option, parse_assignments, plugin_option, set_option
from clbench.options import REQUIRED, Option, format_value
from clbench.settings import MOST_THREADS, Layer, preset_layers
from clbench.terminal import Terminal, json_text, say

if TYPE_CHECKING:
    from clbench.checking.finding import Finding
    from clbench.discovery import Method


@click.command()
@click.argument("name", required=False, shell_complete=completion.methods)
@click.option("--preset", help="Show what applies with a preset (`clbench presets`), or a file of `clbench tune`.")
@plugin_option
@json_option
def methods(name: str | None, preset: str | None, plugins: tuple[Path, ...], style: str) -> None:
    """List the methods, or the options of one method and, with --preset, what applies with it."""
    from clbench.discovery import find_plugins

    found = find_plugins(plugins)
    console = Terminal()
    layers = {} if preset is None or name is None else preset_layers({}, preset, found.method(name).name)
    if style == "json":
        chosen = found.methods.values() if name is None else [found.method(name)]
        applied = {option: value for layer in layers.values() for option, value in layer.options.items()}
        values = [_method_values(method, name is not None, applied) for method in chosen]
        say(json_text(values if name is None else values[0]))
        return
    if name is None:
        table = Table("Method", "What it does", "From")
        for method in found.methods.values():
            table.add_row(method.name, method.summary, method.origin)
    else:
        method = found.method(name)
        console.print(f"{method.name}: {method.summary}")
        table = option_table(method.options, method.about.variants, layers)
    console.print(table)


def _method_values(method: Method, with_options: bool, applied: Mapping[str, Any]) -> dict[str, Any]:
    about = method.about
    values = {
        "name": method.name, "summary": method.summary, "origin": method.origin, "variants": dict(about.variants),
        "memory": None if about.memory is None else about.memory.option, "upper_bound": about.upper_bound,
        "needs_task_id": about.needs_task_id,
    }  # fmt: skip
    if not with_options:
        return values
    return {**values, "options": [_option_values(one, applied) for one in method.options.values()]}


def _option_values(option: Option, applied: Mapping[str, Any]) -> dict[str, Any]:
    default = None if option.default is REQUIRED else option.default
    return {
        "name": option.name, "type": option.type_name, "range": option.range_text, "choices": list(option.choices),
        "default": default, "required": option.default is REQUIRED, "applies": applied.get(option.name, default),
        "meaning": option.note, "search": str(option.search or ""),
    }  # fmt: skip


def option_table(
    options: Mapping[str, Option], variants: Mapping[str, Mapping[str, Any]], layers: Mapping[str, Layer] | None = None
) -> Table:
    """Return what options declare: name, type and range, default, and in one wide column meaning and search space.

    With presets, what applies stands in the default's place, and with what a preset says, which one.
    """
    chosen = {name: (layer, value) for layer, of in (layers or {}).items() for name, value in of.options.items()}
    table = Table(Column("Option", no_wrap=True), Column("Value", max_width=19, overflow="fold"))
    table.add_column("Applies" if layers else "Default", max_width=11, overflow="fold")
    table.add_column("Meaning")
    if variants:
        names = list(variants)
        table.add_row("variant", " | ".join(names), names[0], "a named set of the options below")
    for one in options.values():
        value = ", ".join(filter(None, (one.type_name.replace("|", " | "), one.range_text)))
        search = f"search: {one.search}" if one.search else ""
        shown, origin = one.default_text, ""
        if one.name in chosen:
            shown, origin = format_value(chosen[one.name][1]), f"preset {chosen[one.name][0]}; default: {shown}"
        table.add_row(one.name, value, shown, "\n".join(filter(None, (one.note, search, origin))))
    if not table.row_count:
        table.add_row("(none)")
    return table


@click.command("check-method")
@click.argument("name", shell_complete=completion.methods)
@set_option
@plugin_option
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), default=1, help="CPU threads. [1]")
@json_option
@click.pass_context
def check_method(
    context: click.Context, name: str, given: tuple[str, ...], plugins: tuple[Path, ...], threads: int, style: str
) -> None:
    """Check a method in seconds: it learns, resumes, reloads, and reads no old data; exit code 1 if it does not."""
    console = Terminal(stderr=style == "json")
    with console.status("loading the plugins"):
        from clbench.discovery import find_plugins

        found = find_plugins(plugins)
    method = found.method(name)
    options = method.resolve_options(parse_assignments(given))
    method.build(options)
    with console.status(f"checking {method.name} on two tiny tasks"):
        import torch

        from clbench.checking.battery import check_method

        torch.set_num_threads(threads)
        findings = check_method(found, method, options)
    _show_findings(console, findings, f"{method.name}: {method.origin}", style)
    for finding in findings:
        if finding.error is not None and context.obj.traceback:
            traceback.print_exception(finding.error)
    context.exit(int(any(finding.fault for finding in findings)))


def _show_findings(console: Terminal, findings: Sequence[Finding], title: str, style: str) -> None:
    if style == "json":
        say(json_text([{"check": one.check, "fault": one.fault, "note": one.note} for one in findings]))
        return
    right = "✓" if console.encoding.startswith("utf") else "ok"
    table = Table("Check", "", title=title, title_justify="left")
    for finding in findings:
        table.add_row(
            finding.check, Text(finding.fault, "red") if finding.fault else Text(f"{right} {finding.note}", "green")
        )
    console.print(table)
