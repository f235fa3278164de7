"""Where the values of a run come from: command line > file (`--config`) > environment > preset > default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.table import Table

from clbench.data.rows import parse_toml, read_text
from clbench.errors import ClbenchError, unknown
from clbench.options import format_value
from clbench.settings import Layer, list_settings, preset_layers
from clbench.spec import RunSpec
from clbench.terminal import Terminal, json_text, say

# What a file may say beside [options] and [settings], and the parameters of the command that it stands for.
ENTRIES = {
    "method": "method_name",
    "order": "order",
    "stream": "stream",
    "preset": "preset",
    "seeds": "seeds",
    "plugins": "plugins",
    "results": "results",
    "checkpoint_every": "checkpoint_every",
    "track": "track",
}
LISTS = {"plugins", "track"}  # what may be given several times
_RANK = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT)


class ConfiguredCommand(click.Command):
    """A command whose file (click's default map) wins over the environment."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, then let the file win."""
        rest = super().parse_args(ctx, args)
        for param in self.params:
            name = param.name or ""
            if name in (ctx.default_map or {}) and ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
                ctx.params[name] = param.type_cast_value(ctx, (ctx.default_map or {})[name])
                ctx.set_parameter_source(name, ParameterSource.DEFAULT_MAP)
        return rest


def _take_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        ctx.default_map = read_config(path)
    return path


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_take_file,
    help="A TOML file: method, order or stream, seeds, preset, [options], [settings].",
)


def read_config(path: Path) -> dict[str, Any]:
    """Return what a file says, by the parameters of `clbench run`.

    Raises:
        ClbenchError: no such file, no TOML, or an unknown entry.
    """
    try:
        content = parse_toml(read_text(path))
    except (OSError, ValueError) as error:
        raise ClbenchError(f"--config {path}: {' '.join(str(error).split())}") from None
    tables = {name: content.pop(name, {}) for name in ("options", "settings")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ClbenchError(f"--config {path}: [{name}] is a table of names and values, not {table!r}")
    known = [name for name in list_settings() if name not in ("stream", "seed")]
    for name in content:
        if name not in ENTRIES:
            hint = "; it stands under [settings]" if name in known else ""
            raise ClbenchError(f"--config {path}: {unknown('entry', name, [*ENTRIES, *tables])}{hint}")
    for name in tables["settings"]:
        if name not in known:
            raise ClbenchError(f"--config {path}: {unknown('setting', name, known)}")
    values: dict[str, Any] = {ENTRIES[name]: _text(value) for name, value in content.items() if name not in LISTS}
    for name in LISTS & content.keys():
        values[ENTRIES[name]] = [_text(one) for one in content[name]]
    values["given"] = [f"{name}={_text(value)}" for name, value in tables["options"].items()]
    return {**values, **{name: _text(value) for name, value in tables["settings"].items()}}


def _text(value: Any) -> str:
    """Return a value as it would stand on the command line."""
    if isinstance(value, list):
        return ",".join(map(_text, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if isinstance(value, bool) else str(value)


def merged_options(ctx: click.Context, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the `--set` texts of the command line, and those of the file that it does not name."""
    if ctx.get_parameter_source("given") is not ParameterSource.COMMANDLINE:
        return given
    named = {text.partition("=")[0].strip() for text in given}
    own = (ctx.default_map or {}).get("given", [])
    return (*(text for text in own if text.partition("=")[0] not in named), *given)


def stronger(ctx: click.Context, first: str, second: str) -> tuple[str | None, str | None]:
    """Return two parameters that exclude each other; the one from a weaker place as none."""
    ranks = [
        _RANK.index(source) if (source := ctx.get_parameter_source(name)) in _RANK else 9 for name in (first, second)
    ]
    values = ctx.params[first], ctx.params[second]
    return (values[0] if ranks[0] <= ranks[1] else None), (values[1] if ranks[1] <= ranks[0] else None)


def show_config(console: Terminal, ctx: click.Context, spec: RunSpec, preset: str | None, style: str) -> None:
    """Print every value of a run, and where it comes from."""
    layers = preset_layers(vars(spec.settings), preset, spec.method, spec.options)
    settings, options = _settings_from(ctx, spec, layers), _options_from(ctx, spec, layers)
    if style == "json":
        say(json_text([{"name": name, "value": v, "from": origin} for name, v, origin in [*settings, *options]]))
        return
    table = Table("Name", "Value", "From", title=str(spec), title_justify="left")
    for name, value, origin in settings:
        table.add_row(name, format_value(value), origin)
    table.add_section()
    for name, value, origin in options:
        table.add_row(f"{name} (option)", format_value(value), origin)
    console.print(table)


def _settings_from(ctx: click.Context, spec: RunSpec, layers: Mapping[str, Layer]) -> list[tuple[str, Any, str]]:
    values = {"method": spec.method, "stream": spec.stream, **spec.recorded_settings}
    return [(name, value, _origin(ctx, name, layers)) for name, value in values.items()]


def _options_from(ctx: click.Context, spec: RunSpec, layers: Mapping[str, Layer]) -> list[tuple[str, Any, str]]:
    named = {text.partition("=")[0].strip() for text in ctx.params["given"]}
    in_file = {text.partition("=")[0] for text in (ctx.default_map or {}).get("given", [])}
    found = []
    for name, value in spec.options.items():
        origin = _source(ctx, "given") if name in named else str(ctx.params["config"]) if name in in_file else "default"
        if origin == "default" and "variant" in named | in_file:
            origin = "default, or the variant"
        elif origin == "default":
            origin = next(
                (f"preset {layer}" for layer, of in reversed(list(layers.items())) if name in of.options), origin
            )
        found.append((name, value, origin))
    return found


def _origin(ctx: click.Context, name: str, layers: Mapping[str, Layer]) -> str:
    parameter = ENTRIES.get(name, name)
    if name == "stream" and stronger(ctx, "order", "stream")[0] is not None:
        parameter = "order"
    found = _source(ctx, parameter)
    if found != "default":
        return found
    return next((f"preset {one}" for one, layer in reversed(list(layers.items())) if name in layer.settings), "default")


def _source(ctx: click.Context, parameter: str) -> str:
    match ctx.get_parameter_source(parameter):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.DEFAULT_MAP:
            return str(ctx.params["config"])
        case ParameterSource.ENVIRONMENT:
            return f"{ctx.auto_envvar_prefix}_{parameter.upper()}"
        case _:
            return "default"
