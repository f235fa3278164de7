"""What is printed: text as it stands, without what a terminal or rich would obey."""

import io
import json

from rich.table import Table

from clbench.terminal import Terminal, harmless, json_text

EVIL = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp.\r[/][bold]:smile:"


def test_a_terminal_gets_no_command_and_rich_no_markup(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "200")
    console = Terminal()
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    console.print(EVIL)
    console.print(table)
    console.rule(EVIL)
    with console.status(EVIL):
        pass
    text = out.getvalue()
    assert not set("\x1b\x07\x9b\u202e\r") & set(text)
    assert text.count("[/][bold]:smile:") == 5


def test_harmless_keeps_what_is_only_text():
    assert harmless("a\tb\nü € 漢字 😀") == "a\tb\nü € 漢字 😀"
    assert harmless(EVIL) == "]0;title[31mred2Jgnp.[/][bold]:smile:"


def test_json_loses_nothing():
    text = json_text({"a": EVIL})
    assert not set("\x1b\x07\x9b\u202e\r") & set(text)
    assert json.loads(text) == {"a": EVIL}
