"""Rows: what a source reads before it becomes an example, and the reading of JSON files with errors that name the place."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.atomic import read_file
from clbench.errors import ClbenchError


@dataclass(frozen=True)
class Row:
    """One row of a data file: the question's text, the answers that count as right, where it stands, and its number there."""

    passage: str
    answers: tuple[str, ...]
    place: str = ""
    number: int = 0


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ClbenchError: the file is missing, or no JSON.
    """
    try:
        return parse_json(read_file(path).decode())
    except FileNotFoundError:
        present = ", ".join(sorted(other.stem for other in path.parent.glob("*.json"))) or "none"
        raise ClbenchError(f"{path}: no such file (tasks there: {present})") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{path}: cannot be read as JSON: {error}") from None


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        ValueError: it is no TOML, or nested deeper than can be read.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def whole(text: str, place: str) -> str:
    """Return a text of a data file that consists of whole characters.

    Raises:
        ClbenchError: it holds half of a surrogate pair, which no tokenizer reads and no file takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ClbenchError(f"{place}: half a character ({text[error.start]!r}) in the text {text[:40]!r}") from None
    return text


def json_rows(path: Path, content: object, place: str = "") -> list[dict[str, Any]]:
    """Return the content of a JSON file as a list of objects; `place` says where in the file the list stands.

    Raises:
        ClbenchError: it is not a list of objects, or empty.
    """
    if not isinstance(content, list):
        raise ClbenchError(f"{path}: {place}expected a JSON list of rows, found {type(content).__name__}")
    if not content:
        raise ClbenchError(f"{path}: {place}the list of rows is empty")
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise ClbenchError(f"{path}: row {number}: expected an object, found {type(row).__name__}")
    return content


def text_field(place: str, row: Mapping[str, Any], field: str) -> str:
    """Return a row's text in a field.

    Raises:
        ClbenchError: no such field, or it holds no text.
    """
    text = row.get(field)
    if not isinstance(text, str):
        raise ClbenchError(f"{place}: no text field '{field}' (fields: {', '.join(map(str, row))})")
    return text
