"""What the shell completes (docs/commands.md): names of methods, streams, records ... No torch: it must be quick."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from clbench.data.catalogue import known_streams, task_specs
from clbench.data.streams import families
from clbench.reports.plots.kinds import KINDS
from clbench.reports.suites import suite_names
from clbench.settings import load_presets


def methods(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the names of methods, those of files given with --plugin among them; the sources are read, not imported."""
    folders = [Path(place) for place in import_module("clbench.plugins").__path__]
    given = [Path(file) for file in context.params.get("plugins") or ()]
    files = [file for place in (*folders, *given) for file in (place.glob("*.py") if place.is_dir() else [place])]
    return _last_part(sorted(name for file in files for name in _offered(file)), begun)


def _offered(file: Path) -> list[str]:
    """Return the names in the mapping that a plugin's `methods` returns, where it is written out."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    made = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "methods"]
    found = [node.value for one in made for node in ast.walk(one) if isinstance(node, ast.Return)]
    keys = [key for value in found if isinstance(value, ast.Dict) for key in value.keys]
    return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def streams(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete streams, families and stream files; after a comma, tasks."""
    known = [] if "," in begun else [*known_streams(), *families(), *map(str, Path().glob("*.toml"))]
    return _last_part([*known, *task_specs()], begun)


def orders(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the numbers of orders, with what they stand for."""
    done = begun[: begun.rfind(",") + 1]
    found = {f"{done}{stream.order}": stream.name for stream in known_streams().values()}
    return [CompletionItem(value, help=name) for value, name in found.items() if value.startswith(begun)]


def presets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the names of presets."""
    return _starting(load_presets(), begun)


def suites(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the names of a paper's tables and figures."""
    return _starting(suite_names(), begun)


def kinds(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the kinds of pictures."""
    return _starting(KINDS, begun)


def records(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the names of the records in the results folder."""
    folder = Path(context.params.get("results") or "results")
    found = {path.name.partition(".answers.jsonl")[0] for path in folder.glob("*.answers.jsonl*")}
    return _starting(sorted(found), begun)


def _starting(names: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _last_part(names: Iterable[str], begun: str) -> list[CompletionItem]:
    """Complete the last of several names that are separated by commas."""
    done = begun[: begun.rfind(",") + 1]
    return _starting((f"{done}{name}" for name in names), begun)
