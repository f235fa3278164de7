"""Tables in files: json, jsonl, csv, tsv, parquet, each as a list of rows by column, read whole or refused; and written."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clbench.atomic import make_folder, write_atomically
from clbench.data.rows import json_rows, parse_json, read_json
from clbench.errors import ClbenchError, unknown


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a data file by its ending.

    Raises:
        ClbenchError: the file is missing, malformed or empty, or has an unknown ending.
    """
    readers: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        ".json": lambda file: json_rows(file, read_json(file)),
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix.lower() not in readers:
        raise ClbenchError(f"{path}: {unknown('format', path.suffix, readers)}")
    if not path.is_file():
        raise ClbenchError(f"{path}: no such file")
    rows = readers[path.suffix.lower()](path)
    if not rows:
        raise ClbenchError(f"{path}: no rows")
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClbenchError(f"{path}: cannot be read as UTF-8: {error}") from None


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in _read_text(path).split("\n"):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ClbenchError(f"{path}: row {len(rows)}: cannot be read as JSON: {error}") from None
        if not isinstance(row, dict):
            raise ClbenchError(f"{path}: row {len(rows)}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    _read_text(path)  # refuse another encoding before the reader meets it
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        rows: list[dict[str, Any]] = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    found = len(row) + len(row.get(None, ())) - (None in row) - list(row.values()).count(None)
                    raise ClbenchError(
                        f"{path}: row {len(rows)}: {found} fields, but the header names {len(reader.fieldnames or ())}"
                    )
                rows.append(row)
        except csv.Error as error:
            raise ClbenchError(f"{path}: row {len(rows)}: cannot be read as CSV: {error}") from None
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow  # here: slow to import
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ClbenchError(f"{path}: cannot be read as parquet: {error}") from None
    return rows


def check_writable(path: Path) -> None:
    """Check that a table can be written under a name.

    Raises:
        ClbenchError: its ending is of no known format.
    """
    if path.suffix.lower() not in WRITERS:
        raise ClbenchError(f"{path}: {unknown('format', path.suffix, WRITERS)}")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a data file by its ending, atomically; `read_table` reads the same rows, of csv and tsv their texts.

    Raises:
        ClbenchError: the ending is of no known format, or the file cannot be written.
    """
    check_writable(path)
    make_folder(path.parent)
    write_atomically(path, lambda temporary: WRITERS[path.suffix.lower()](temporary, rows))


def _write_json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow  # here: slow to import
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    except pyarrow.ArrowException as error:
        raise ClbenchError(f"{path}: cannot be written as parquet: {error}") from None


WRITERS: Mapping[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = MappingProxyType({
    ".json": _write_json,
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".tsv": partial(_write_csv, delimiter="\t"),
    ".parquet": _write_parquet,
})  # fmt: skip
