"""Tables in files: json, jsonl, csv, tsv, parquet, each as a list of rows by column, read whole or refused; and written."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clbench.atomic import make_folder, write_atomically
from clbench.data.rows import first_twice, json_rows, parse_json, read_json, read_text
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
        return read_text(path)
    except (OSError, ValueError) as error:
        raise ClbenchError(f"{path}: cannot be read as UTF-8: {error}") from None


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in _read_text(path).split("\n"):
        if not line.strip(" \t\r"):
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
    """Read fields between commas or tabs, in quotes where they hold such (RFC 4180); a row ends in LF or CRLF."""
    text, delimiter = _read_text(path), "\t" if path.suffix.lower() == ".tsv" else ","
    header: list[str] | None = None
    rows: list[dict[str, Any]] = []
    usual = csv.field_size_limit(max(1, len(text)))  # its limit is for streams without end
    try:
        # Lines end in LF alone here: the reader then refuses a lone CR, which would split a row.
        for fields in csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True):
            if not fields:
                continue
            if header is None:
                header = fields
                _check_columns(path, header)
                continue
            if len(fields) != len(header):
                raise ClbenchError(f"{path}: row {len(rows)}: {len(fields)} fields, but the header names {len(header)}")
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise ClbenchError(f"{path}: row {len(rows)}: cannot be read as CSV: {_csv_words(error)}") from None
    finally:
        csv.field_size_limit(usual)
    if delimiter == "\t" and header is not None and _reads_otherwise(text, len(header), len(rows)):
        raise ClbenchError(
            f"{path}: can be read in two ways: with quotes around fields as {len(rows)} rows, without as more; "
            f"double the quotes that are text, or write the rows as .jsonl"
        )
    return rows


def _csv_words(error: csv.Error) -> str:
    """Return what the reader found; of a lone CR it gives advice to programmers."""
    text = str(error)
    return "a lone carriage return outside quotes; lines end in LF or CRLF" if "new-line" in text else text


def _reads_otherwise(text: str, columns: int, rows: int) -> bool:
    """Return whether a TSV is a table of other rows where quotes are plain characters, as many programs write it."""
    if columns == 1 or '""' in text:  # a doubled quote shows that quotes are more than characters
        return False
    lines = [line for line in text.split("\n") if line.strip("\r")]
    return len(lines) - 1 != rows and all(line.count("\t") == columns - 1 for line in lines)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """Check that no column would hide another.

    Raises:
        ClbenchError: two have the same name.
    """
    twice = first_twice(names)
    if twice is not None:
        raise ClbenchError(f"{path}: two columns are called '{twice}'; give each a name of its own")


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow  # here: slow to import
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # `read_table` would take columns from the folders' names
            table = file.read()
        _check_columns(path, table.column_names)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ClbenchError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())}") from None
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
