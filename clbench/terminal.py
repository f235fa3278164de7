"""What reaches a terminal: text of records, data and plugins, never a command to the terminal or to rich."""

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

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
    """A rich console that takes every text as it stands: no markup, no emoji codes, no control characters."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, and clean the text; what rich itself has to say to the terminal stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)

    def status(self, status: RenderableType, **looks: Any) -> Status:
        """Show a status line."""
        return super().status(Text(status) if isinstance(status, str) else status, **looks)
