"""Prompt templates: text with the names of columns in braces, as "Review: {text}\\nSentiment:"."""

import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clbench.data.rows import whole
from clbench.data.tasks import Example, TaskSpec
from clbench.errors import ClbenchError, unknown


@dataclass(frozen=True)
class Template:
    """A text in which {column} stands for a row's value; {{ and }} are braces.

    What lies before the first column and after the last is the same in every prompt (`head`, `tail`).
    """

    text: str

    @cached_property
    def parts(self) -> tuple[tuple[str, str | None], ...]:
        """The literal texts, each with the column after it; None after the last.

        Raises:
            ClbenchError: the braces do not match, or hold something else than a column's name.
        """
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ClbenchError(f"{error}; write {{{{ and }}}} for braces") from None
        parts: list[tuple[str, str | None]] = []
        text = ""
        for literal, column, form, conversion in parsed:
            text += literal  # an escaped brace ends a literal without a column
            if column is None:
                continue
            if not column.strip() or form or conversion:
                raise ClbenchError("between braces stands the name of a column and nothing else")
            parts.append((text, column))
            text = ""
        return (*parts, (text, None))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names, in order, each once."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    @property
    def head(self) -> str:
        """The text before the first column."""
        return self.parts[0][0]

    @property
    def tail(self) -> str:
        """The text after the last column."""
        return self.parts[-1][0]

    def passage(self, values: Mapping[str, str]) -> str:
        """Return what lies between head and tail, filled in."""
        first, *rest = [(literal, column) for literal, column in self.parts if column is not None]
        return values[first[1]] + "".join(literal + values[column] for literal, column in rest)

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the whole text, filled in."""
        return self.head + self.passage(values) + self.tail


def cell(row: Mapping[str, Any], column: str, place: str) -> str:
    """Return a row's value in a column as text; an absent number or text is the empty text.

    Raises:
        ClbenchError: no such column, or it holds neither text nor number (NaN and infinity are none).
    """
    if column not in row:
        raise ClbenchError(f"{place}: {unknown('column', column, row)}")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        raise ClbenchError(
            f"{place}: column '{column}' holds {value}, which is no number; leave the field empty (null)"
        )
    if isinstance(value, (str, int, float, bool)):
        return whole(str(value), f"{place}: column '{column}'")
    raise ClbenchError(f"{place}: column '{column}' holds a {type(value).__name__}, expected a text or a number")


def cells(row: Mapping[str, Any], columns: Iterable[str], place: str) -> dict[str, str]:
    """Return a row's values in the columns as texts."""
    return {column: cell(row, column, place) for column in columns}


@dataclass(frozen=True)
class TaskPrompt:
    """How a task asks about a row that it has never seen: its template, its labels (none: free text), the tokens of an answer."""

    task: str
    template: str
    labels: tuple[str, ...] = ()
    max_answer: int | None = None

    def example(self, row: Mapping[str, Any], place: str) -> Example:
        """Return a row as a question without an answer.

        Raises:
            ClbenchError: the row lacks a column of the template, or the template names none.
        """
        template = Template(self.template)
        if not template.columns:
            raise ClbenchError(
                f"the prompt {self.template[:60]!r} names no column; write {{text}} where 'text' belongs"
            )
        passage = template.passage(cells(row, template.columns, place))
        return Example(template.head, passage.rstrip(), "", template.tail, max_answer=self.max_answer)


def prompt_of(spec: TaskSpec) -> TaskPrompt:
    """Return how a task asks; one that is no user's own has a single column, `text`."""
    template = spec.template or f"{_literal(spec.head)}{{text}}{_literal(spec.tail)}"
    return TaskPrompt(spec.name, template, spec.labels, spec.max_answer)


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
