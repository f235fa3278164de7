"""Tables as data, and as text: rich, markdown, LaTeX (booktabs), CSV, JSON; one definition for every command.

rich draws them. Markdown and LaTeX are written here: pandas writes the one with tabulate, a dependency more, and escapes nothing
that a record may say; the other with its Styler, which breaks no long column and scales no wide table.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clbench.terminal import json_text, say

STYLES = ("table", "md", "csv", "latex", "json")
MANY = 7  # columns from which a table is a wide one
ROOM = 13  # characters that each column of a wide table needs; with less, each line becomes a block
LONG = 60  # LaTeX: characters from which a column is broken into lines
PAGE = 76  # LaTeX: characters that a line takes
_LOOKS = {"": "", "best": "bold", "close": "underline"}
_MARKDOWN = {"best": ("**", "**"), "close": ("<u>", "</u>")}
_LATEX = {"best": (r"\textbf{", "}"), "close": (r"\underline{", "}")}
_LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "--": "-{}-",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "Δ": r"$\Delta$", "→": r"$\rightarrow$", "≤": r"$\leq$",
}  # fmt: skip


Mark = Literal["", "best", "close"]


@dataclass(frozen=True)
class Cell:
    """A cell's text; 'best' is shown in bold, 'close' (not significantly worse than the best) underlined; `link` is for pages."""

    text: str
    mark: Mark = ""
    link: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table for people. `left` are the numbers of its left-aligned columns, by default the first and the last."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str | Cell]]
    left: Sequence[int] | None = None
    notes: Sequence[str] = ()

    def is_left(self, column: int) -> bool:
        """Return whether a column is left-aligned."""
        return column in ((0, len(self.header) - 1) if self.left is None else self.left)


def show_sheet(console: Console, sheet: Sheet, values: Sequence[Mapping[str, Any]], style: str) -> None:
    """Print a sheet; as CSV and JSON print the values behind it instead, one mapping a line."""
    if style == "table":
        console.print(rich_sheet(sheet, console.width))
        for note in sheet.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=False)
    else:
        say(sheet_text(sheet, values, style))


def sheet_text(sheet: Sheet, values: Sequence[Mapping[str, Any]], style: str) -> str:
    """Return a sheet as text in the style 'md' or 'latex', or the values as 'csv' or 'json'."""
    if style == "json":
        return json_text(list(values))
    if style == "csv":
        return csv_text(values)
    return markdown(sheet) if style == "md" else latex(sheet)


def _parts(cell: str | Cell) -> tuple[str, Mark]:
    return (cell, "") if isinstance(cell, str) else (cell.text, cell.mark)


def _marked(text: str, mark: str, marks: Mapping[str, tuple[str, str]]) -> str:
    before, after = marks.get(mark, ("", ""))
    return f"{before}{text}{after}"


def rich_sheet(sheet: Sheet, width: int = 80) -> Table:
    """Return a sheet as a rich table; one of many columns, on a narrow terminal, as a block of two columns a line."""
    cells = [[Text(text, _LOOKS[mark]) for text, mark in map(_parts, line)] for line in sheet.lines]
    if len(sheet.header) >= MANY and width < ROOM * len(sheet.header):
        table = Table(title=Text(sheet.title), title_justify="left", show_header=False)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for line in cells:
            for number, (name, cell) in enumerate(zip(sheet.header, line, strict=True)):
                if cell.plain not in ("", "-"):
                    table.add_row(Text(name), cell, end_section=number == len(line) - 1)
            table.add_section()
        return table
    table = Table(
        title=Text(sheet.title) if sheet.title else None, title_justify="left", min_width=min(width, len(sheet.title))
    )
    for number, name in enumerate(sheet.header):
        table.add_column(Text(name), justify="left" if sheet.is_left(number) else "right", overflow="fold")
    for line in cells:
        table.add_row(*line)
    return table


def csv_text(values: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """Return mappings as CSV with a header; without any, `names` make the header."""
    text = io.StringIO()
    columns = list(dict.fromkeys([name for line in values for name in line])) or list(names)
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in line.items()} for line in values)
    return text.getvalue().rstrip("\n")


def _csv_cell(value: Any) -> Any:
    """Return a cell that a spreadsheet takes for text, if it is one: a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def markdown(sheet: Sheet) -> str:
    """Return a sheet as a markdown table, its notes below."""
    aligns = ["---" if sheet.is_left(number) else "---:" for number in range(len(sheet.header))]
    body = [
        [_marked(markdown_escape(text), mark, _MARKDOWN) for text, mark in map(_parts, line)] for line in sheet.lines
    ]
    header = [markdown_escape(name) for name in sheet.header]
    lines = "\n".join("| " + " | ".join(line) + " |" for line in (header, aligns, *body))
    return "\n\n".join([lines, *map(markdown_escape, sheet.notes)])


def markdown_escape(text: str) -> str:
    """Return a text on one line in which markdown finds no tag, no link and no column's end."""
    kept = re.sub(r"\\|\||\](?=\()", lambda found: f"\\{found[0]}", " ".join(text.splitlines()))
    return kept.replace("&", "&amp;").replace("<", "&lt;")


def latex(sheet: Sheet) -> str:
    """Return a sheet as a LaTeX tabular with booktabs rules, its notes as comments.

    Columns of long texts are broken; a table that is wider than a page even so is scaled to the line (graphicx).
    """
    columns = [[_parts(cell)[0] for cell in column] for column in zip(sheet.header, *sheet.lines, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    aligns = "".join(
        "r" if not sheet.is_left(number) else "l" if width < LONG else "p{7cm}" if width < 3 * LONG else "p{15cm}"
        for number, width in enumerate(widths)
    )
    body = [
        " & ".join(_marked(latex_escape(text), mark, _LATEX) for text, mark in map(_parts, line)) + r" \\"
        for line in sheet.lines
    ]
    head = " & ".join(map(latex_escape, sheet.header)) + r" \\"
    table = [rf"\begin{{tabular}}{{{aligns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    if sum(widths) + 2 * len(widths) > PAGE:
        table = [r"\resizebox{\linewidth}{!}{%", *table, "}"]
    return "\n".join([*(f"% {note}" for note in sheet.notes), *table])


def latex_escape(text: str) -> str:
    """Return a text in which LaTeX finds no command of its own."""
    return re.sub("|".join(map(re.escape, _LATEX_CHARACTERS)), lambda found: _LATEX_CHARACTERS[found[0]], text)
