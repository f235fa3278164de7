"""The ledger: numbers that papers published, with the protocol behind each (`results/published/*.toml`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from clbench.data.rows import parse_toml
from clbench.errors import ClbenchError, unknown

Made = TypeVar("Made", "Published", "Source")
PROTOCOLS = "protocols.toml"
MEASURES = ("op", "bwt", "forgetting", "minutes_per_epoch")
RANGES = {
    "op": (0, 100),
    "bwt": (-100, 100),
    "forgetting": (-100, 100),
    "minutes_per_epoch": (0, 10_000),
    "runs": (1, 100),
}
STREAMS = ("standard", "long", "superni", "trace")
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Source:
    """A paper. `read` says where its numbers were read: in the paper's own text, or in notes about it."""

    name: str
    title: str
    where: str
    read: str


@dataclass(frozen=True)
class Protocol:
    """How numbers were made; none: the source does not say. `train_rows` counts per 'task' or per 'class'."""

    name: str
    title: str = ""
    train_rows: int | None = None
    train_rows_per: str | None = None
    test: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    max_input: int | None = None
    lora_rank: int | None = None
    lora_targets: str | None = None
    selection: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Published:
    """One published row: scores in percent, time in minutes.

    Attributes:
        method: our name of the method; empty where we do not have it.
        column: the column of the paper's table, where it has several for one row.
        stream: 'standard', 'long', ... for a mean over orders, 'long:1' for one order, or 'not stated'.
        runs: how many runs the number averages, none where the source does not say.
        options, settings: how our method must be set to be the same thing.
        copied: the source took the number from another paper.
        second_hand: we know the number from a third party.
    """

    source: Source
    table: str
    label: str
    method: str
    stream: str
    backbone: str
    protocol: Protocol
    column: str = ""
    about: str = ""
    runs: int | None = None
    op: float | None = None
    bwt: float | None = None
    forgetting: float | None = None
    minutes_per_epoch: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    copied: bool = False
    second_hand: bool = False
    note: str = ""


def read_ledger(folder: Path | None = None) -> list[Published]:
    """Return every published row, in the order of files and rows; without a folder the ledger that ships with clbench.

    Raises:
        ClbenchError: no such folder, or a malformed file; the message names file, table and row.
    """
    place: Traversable = files("clbench.published") if folder is None else folder
    if folder is not None and not folder.is_dir():
        raise ClbenchError(f"no ledger folder '{folder}'")
    found = sorted((file for file in place.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    protocols = {"unknown": Protocol("unknown")}
    for file in found:
        if file.name == PROTOCOLS:
            protocols |= _protocols(_read_toml(file), file.name)
    rows = [row for file in found if file.name != PROTOCOLS for row in _rows(_read_toml(file), file.name, protocols)]
    if not rows:
        raise ClbenchError(f"{folder}: the ledger has no tables")
    return rows


def _read_toml(file: Traversable) -> dict[str, Any]:
    try:
        return parse_toml(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{file.name}: not TOML: {' '.join(str(error).split())}") from None


def _protocols(content: Mapping[str, Any], file: str) -> dict[str, Protocol]:
    found = {}
    for name, values in content.items():
        _check(values, Protocol, f"{file}: protocol '{name}'", skip=("name",))
        found[name] = Protocol(name, **_as_floats(values, ("learning_rate",)))
    return found


def _rows(content: Mapping[str, Any], file: str, protocols: Mapping[str, Protocol]) -> list[Published]:
    for name in content:
        if name not in ("source", "tables"):
            raise unknown(f"{file}: part", name, ("source", "tables"))
    _check(content.get("source", {}), Source, f"{file}: source")
    source = _make(Source, content.get("source", {}), f"{file}: source")
    rows = []
    for number, table in enumerate(content.get("tables", []), 1):
        place = f"{file}: table '{table.get('name', number)}'"
        if "name" not in table or not isinstance(table.get("rows"), list) or not table["rows"]:
            raise ClbenchError(f"{place}: needs a name and rows")
        shared = {name: value for name, value in table.items() if name not in ("name", "rows")}
        _check(shared, Published, place, skip=("source", "table", *MEASURES))
        for row_number, row in enumerate(table["rows"], 1):
            here = f"{place}, row {row_number}"
            if not isinstance(row, dict):
                raise ClbenchError(f"{here}: must be a table like {{ label = ..., op = ... }}")
            rows.append(
                _row(source, table["name"], {**shared, **row}, f"{here} ('{row.get('label', '?')}')", protocols)
            )
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        key = (row.table, row.label, row.column, row.stream, row.backbone)
        if key in seen:
            raise ClbenchError(
                f"{file}: table '{row.table}', row '{row.label}': stands twice for {row.column or row.stream}"
            )
        seen.add(key)
    return rows


def _row(
    source: Source, table: str, given: Mapping[str, Any], place: str, protocols: Mapping[str, Protocol]
) -> Published:
    _check(given, Published, place, skip=("source", "table"))
    values = _as_floats({"stream": given.get("column", ""), **given}, MEASURES)
    values["stream"] = values["stream"] or NOT_STATED
    if values["stream"].split(":")[0] not in (*STREAMS, NOT_STATED):
        raise unknown(f"{place}: stream", values["stream"], [*STREAMS, "long:1 and so on", NOT_STATED])
    if not any(values.get(measure) is not None for measure in MEASURES):
        raise ClbenchError(f"{place}: has no number ({', '.join(MEASURES)})")
    for name, (low, high) in RANGES.items():
        if values.get(name) is not None and not low <= values[name] <= high:
            raise ClbenchError(f"{place}: {name} = {values[name]} is not between {low} and {high}")
    protocol = values.pop("protocol", "unknown")
    if protocol not in protocols:
        raise unknown(f"{place}: protocol", protocol, protocols)
    return _make(Published, {**values, "source": source, "table": table, "protocol": protocols[protocol]}, place)


def _check(values: Mapping[str, Any], kind: type, place: str, skip: tuple[str, ...] = ()) -> None:
    """Check the names and types of values against a dataclass."""
    known = {name: hint for name, hint in _hints(kind).items() if name not in skip}
    for name, value in values.items():
        if name not in known:
            raise unknown(f"{place}: field", name, known)
        hint = known[name]
        accepted: tuple[type, ...] = (str,)
        for word, types in (("bool", (bool,)), ("Mapping", (dict,)), ("float", (int, float)), ("int", (int,))):
            if word in hint:
                accepted = types
                break
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise ClbenchError(f"{place}: {name} = {value!r} is not {' or '.join(kind.__name__ for kind in accepted)}")


@cache
def _hints(kind: type) -> dict[str, str]:
    return {name: str(hint) for name, hint in get_type_hints(kind).items()}


def _make(kind: type[Made], values: Mapping[str, Any], place: str) -> Made:
    missing = [f.name for f in fields(kind) if f.name not in values and f.default is f.default_factory]
    if missing:
        raise ClbenchError(f"{place}: no field '{missing[0]}'")
    return kind(**values)


def _as_floats(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: float(value) if name in names and value is not None else value for name, value in values.items()}
