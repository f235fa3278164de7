"""Rows: what a source reads before it becomes an example, and the reading of JSON files with errors that name the place."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.atomic import read_file
from clbench.errors import ClbenchError


@dataclass(frozen=True)
class Row:
    """One row of a data file: the question's text, the answers that count as right, where it stands, and its number there.

    `tail` is what follows the passage to the letter, where the file itself has the end of the prompt; `head` what precedes it,
    where the task is known by its file alone.
    """

    passage: str
    answers: tuple[str, ...]
    place: str = ""
    number: int = 0
    tail: str | None = None
    head: str | None = None


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file to the letter, without the mark that some editors write at its beginning.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is not UTF-8.
    """
    return read_file(path).decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ClbenchError: the file is missing, or no JSON.
    """
    try:
        return parse_json(read_text(path))
    except FileNotFoundError:
        present = ", ".join(sorted(other.stem for other in path.parent.glob("*.json"))) or "none"
        raise ClbenchError(f"{path}: no such file (tasks there: {present})") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{path}: cannot be read as JSON: {error}") from None


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is no JSON, is nested deeper than can be read, names a key of an object twice, or holds a number that is
            too large or too small for a float.
    """
    try:
        return _JSON.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object names the key {first_twice([key for key, _ in pairs])!r} twice")
    return found


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number) or (number == 0 and text.lower().partition("e")[0].strip("-0.")):
        raise ValueError(f"the number {text[:40]} is too {'small' if number == 0 else 'large'} to be read as one")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)


def first_twice(names: Sequence[str]) -> str | None:
    """Return the first of the names that is there more than once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


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
