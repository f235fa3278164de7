"""What reaches a terminal: text of records, data and plugins, never a command to the terminal or to rich."""

import json
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text, TextType

UNCUT = 10_000  # characters of a line into a pipe
# Control characters but tab and line feed (a terminal takes them for commands), and those that turn the direction of writing.
_COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Return a text without the characters that a terminal obeys."""
    return text if text.isprintable() else _COMMANDS.sub("", text)


def say(text: str, err: bool = False) -> None:
    """Print a text and a line feed, without what a terminal obeys."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # the process may have been started without
        stream.write(f"{harmless(text)}\n")
        stream.flush()


def json_text(value: Any) -> str:
    """Return a value as indented JSON in which each character that a terminal obeys is escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Terminal(Console):
    """A rich console that takes every text as it stands: no markup, no emoji codes, no control characters.

    Into a pipe or a file it writes lines as long as they are, and tables as plain columns, without boxes, for the next program.
    """

    def __init__(self, stderr: bool = False) -> None:
        # Without ipywidgets a notebook cannot show what moves: lines of text are written there.
        notebook = None if find_spec("ipywidgets") else False
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, force_jupyter=notebook)
        self.is_piped = not self.is_terminal and not self.is_jupyter
        if self.is_piped:
            self.width = UNCUT

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, and clean the text; what rich itself has to say to the terminal stays."""
        if self.is_piped and isinstance(renderable, Table):
            yield from self._plain_columns(renderable, options)
            return
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)

    def _plain_columns(self, table: Table, options: ConsoleOptions | None) -> Iterable[Segment]:
        table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
        for column in table.columns:
            column.max_width, column.no_wrap = None, True
        for line in Segment.split_lines(super().render(table, options)):
            yield Segment("".join(harmless(segment.text) for segment in line).rstrip() + "\n")

    def rule(self, title: TextType = "", **looks: Any) -> None:
        """Draw a line with a title; into a pipe, the title alone."""
        if self.is_piped:
            self.print(title)
        else:
            super().rule(title, **looks)

    def status(self, status: RenderableType, **looks: Any) -> Status:
        """Show a status line."""
        return super().status(Text(status) if isinstance(status, str) else status, **looks)
