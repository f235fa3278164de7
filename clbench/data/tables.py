"""Tables in files: json, jsonl, csv, tsv, parquet, each as a list of rows by column, read whole or refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
