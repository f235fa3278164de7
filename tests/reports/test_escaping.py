"""Names from records act nowhere: not in markdown, CSV, HTML, on a terminal, or as a path."""

import csv
import io

import pytest

from clbench.records.files import RunFiles, slug
from clbench.reports.leaderboard import make_rows, pivot, render
from clbench.reports.tables import Sheet, csv_text, markdown, markdown_escape
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.records.examples import record

EVIL = "<script>alert(1)</script>|x\n[a](javascript:b)\x1b[31m\x9b2J$\\frac{$\\|=cmd|' /C calc'!A0"


@pytest.mark.parametrize(
    "words", [["leaderboard"], ["compare"], ["show", "r"], ["rescore", "r"], ["plot", "overall"]], ids=str
)
@pytest.mark.parametrize("style", ["table", "md", "csv", "latex", "json"])
def test_no_escape_sequence_reaches_the_terminal(clbench, tmp_path, words, style):
    names = {"name": EVIL, "version": 1, "metric": "exact_match"}
    made = record(EVIL, options={"x": EVIL}, fields={"tasks": [names], "notes": [EVIL], "lora_targets": EVIL})
    RunFiles(tmp_path, "r").write_record(made, [])
    styled = [] if words[0] in ("show", "plot") else ["--format", style]
    if styled or style == "table":
        result = clbench(*words, "--results", tmp_path, *styled)
        assert not set("\x1b\x9b\x07\r") & set(result.output)
        assert result.exit_code == 0 or words[0] == "rescore"  # whose answers are missing


def test_markdown_is_text():
    assert markdown(Sheet("T", ["A", "B"], [["a|b", "<script>"], ["x\ny\u2028z", "\\|"]])).split("\n") == [
        "| A | B |",
        "| --- | --- |",
        r"| a\|b | &lt;script> |",
        r"| x y z | \\\| |",
    ]
    assert markdown_escape("![x](http://y)") == r"![x\](http://y)"
    assert markdown_escape("[1.0, 2.0] & a_b") == "[1.0, 2.0] &amp; a_b"
    text = render(make_rows([record(EVIL, options={"x": EVIL})]), "md")
    assert "<script" not in text
    assert text.count("\n") == 2


def test_csv_holds_no_formula():
    values = [{"a": "=cmd|' /C calc'!A0", "b": -1.5, "c": "-x"}, {"a": "+1", "b": None, "c": "@y"}]
    rows = list(csv.reader(io.StringIO(csv_text(values))))
    assert rows[1:] == [["'=cmd|' /C calc'!A0", "-1.5", "'-x"], ["'+1", "", "'@y"]]


def test_a_sheet_for_a_terminal_takes_names_as_they_stand():
    assert pivot(make_rows([record("[bold]x[/]")])).lines[0][0] == "[bold]x[/]"


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", ".", "a/b", "a\\b", "\0", "x" * 500, "\n"])
def test_no_name_forms_a_path_outside_the_folder(tmp_path, name):
    settings = {} if name == "\0" else {"stream": name, "data": name, "backbone": name}
    files = RunFiles.of(tmp_path, RunSpec(name, {}, Settings(**settings)), "0123456789")
    for path in (files.record, files.answers, files.checkpoint, files.adapter, files.maps):
        assert path.parent == tmp_path
        assert len(path.name) < 200
        assert path.resolve().parent == tmp_path.resolve()
    assert not set("/\\\0\n") & set(slug(name))
