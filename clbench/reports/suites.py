"""Suites as data: the TOML files that name a published table or figure's methods, streams and options, and the scales."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from clbench.data.rows import parse_toml, read_text
from clbench.errors import ClbenchError, unknown
from clbench.names import match

SCALES = "scales.toml"
MEASURES = {"op": "OP", "bwt": "BWT", "minutes_per_epoch": "min/epoch"}
DRAWS_MAPS = ("maps", "shift", "stages")  # kinds of pictures for which the runs must log their maps


@dataclass(frozen=True)
class Column:
    """A column of a table: its stream (one, or a family), measures, and what it sets. `key` is its name in the ledger."""

    label: str
    stream: str
    measures: Sequence[str]
    key: str = ""
    scales: Sequence[str] = ("toy", "small", "paper")
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A row of a table: its label, our method, and what it sets. `key` is its label in the ledger, where that is another."""

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Suite:
    """A table or figure of a paper as runs; `table` is its name in the ledger, `draw` the kind of picture."""

    name: str
    title: str
    source: str
    columns: Sequence[Column]
    rows: Sequence[Line]
    table: str = ""
    draw: str = ""


@dataclass(frozen=True)
class Scale:
    """How large a suite is run: seeds, orders of each stream family, settings, and options by method (a row's own win)."""

    name: str
    about: str
    seeds: int
    orders: Mapping[str, int]
    settings: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def suite_names() -> list[str]:
    """Return the names of all suites, table10 after table9."""
    names = [
        file.name.removesuffix(".toml")
        for file in files("clbench.tasks.suites").iterdir()
        if file.name.endswith(".toml")
    ]
    return sorted(
        (name for name in names if f"{name}.toml" != SCALES),
        key=lambda name: (name.rstrip("0123456789")[::-1], len(name), name),
    )


def read_suite(name: str) -> Suite:
    """Return a suite by name, or from a TOML file of one's own.

    Raises:
        ClbenchError: no such suite, or a malformed file.
    """
    if name.endswith(".toml"):
        place: Any = Path(name)
    else:
        found = match(name, suite_names())
        if found is None:
            raise unknown("suite", name, suite_names())
        place = files("clbench.tasks.suites").joinpath(f"{found}.toml")
    try:
        content = parse_toml(read_text(place) if isinstance(place, Path) else place.read_text("utf-8"))
        columns = [Column(**column) for column in content.pop("columns")]
        rows = [Line(**row) for row in content.pop("rows")]
        suite = Suite(name=place.name.removesuffix(".toml"), columns=columns, rows=rows, **content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ClbenchError(f"suite '{place}': {' '.join(str(error).split())}") from None
    for column in suite.columns:
        for measure in column.measures:
            if measure not in MEASURES:
                raise unknown(f"suite '{name}': measure", measure, MEASURES)
    return suite


@cache
def read_scales() -> dict[str, Scale]:
    """Return the scales by name."""
    content = tomllib.loads(files("clbench.tasks.suites").joinpath(SCALES).read_text("utf-8"))
    return {name: Scale(name, **values) for name, values in content.items()}
