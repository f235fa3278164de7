"""Rows: what a source reads before it becomes an example, and the reading of JSON files with errors that name the place."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError


@dataclass(frozen=True)
class Row:
    """One row of a data file: the question's text, the answers that count as right, and where it stands."""

    passage: str
    answers: tuple[str, ...]
    place: str = ""


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ClbenchError: the file is missing, or no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        present = ", ".join(sorted(other.stem for other in path.parent.glob("*.json"))) or "none"
        raise ClbenchError(f"{path}: no such file (tasks there: {present})") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{path}: cannot be read as JSON: {error}") from None


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
