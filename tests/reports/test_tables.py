"""Every kind of table in every format: LaTeX compiles and fits the page, and no width of a terminal loses a number."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from clbench.reports.leaderboard import make_rows, pivot
from clbench.reports.tables import Sheet, latex, latex_escape, markdown
from tests.conftest import REFERENCE
from tests.records.examples import record

RECORD = next(REFERENCE.glob("*_rkif_*_s1_*.json"))
COMMANDS = {
    "leaderboard": ["leaderboard", "--results", REFERENCE],
    "significance": ["leaderboard", "--significance", "--results", REFERENCE],
    "compare": ["compare", "--results", REFERENCE],
    "rescore": ["rescore", RECORD],
    "reproduce": ["reproduce", "table2", "--runs", 0],
    "plan": ["reproduce", "table2", "--dry-run"],
}
DOCUMENT = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\noindent %s\end{document}"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles_and_fits_the_page(clbench, tmp_path, name):
    compile_latex(clbench(*COMMANDS[name], "--format", "latex").stdout, tmp_path)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_of_strange_names_compiles(tmp_path):
    rows = make_rows([record(options={"a_b": "50%"}), record("x&y#{z}^~$<|>\\--", data="a_folder")])
    compile_latex(latex(pivot(rows)), tmp_path)


def compile_latex(text: str, folder: Path) -> None:
    (folder / "t.tex").write_text(DOCUMENT % f"\n{text}\n", "utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-1500:]
    too_wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", result.stdout)]
    assert max(too_wide, default=0) < 10, result.stdout[-1500:]
    assert (folder / "t.pdf").stat().st_size > 1000


@pytest.mark.parametrize("name", COMMANDS)
def test_latex_has_as_many_cells_in_each_line_as_columns(clbench, name):
    """The structure, also where there is no LaTeX: one tabular, booktabs rules, lines of equal length, balanced braces."""
    for text in re.findall(
        r"\\begin{tabular}.*?\\end{tabular}", clbench(*COMMANDS[name], "--format", "latex").stdout, re.S
    ):
        (columns,) = re.findall(r"\\begin{tabular}{((?:[lr]|p{\d+cm})+)}", text)
        count = len(re.findall(r"[lr]|p{\d+cm}", columns))
        lines = [line for line in text.split("\n") if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {count}
        rules = [line for line in text.split("\n") if line in (r"\toprule", r"\midrule", r"\bottomrule")]
        assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
        plain = re.sub(r"\\[{}]", "", text)
        assert plain.count("{") == plain.count("}")


def test_latex_breaks_long_columns_and_scales_wide_tables():
    assert latex_escape("--a_b & 5%") == r"-{}-a\_b \& 5\%"
    narrow = latex(Sheet("T", ["A", "B"], [["x", "y"]]))
    assert narrow.startswith("\\begin{tabular}{ll}\n")
    wide = latex(Sheet("T", ["A", "B"], [["x", "y" * 80], ["x", "y"]], notes=["n"]))
    assert wide.split("\n")[:3] == ["% n", r"\resizebox{\linewidth}{!}{%", r"\begin{tabular}{lp{7cm}}"]
    assert wide.endswith("\\end{tabular}\n}")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "significance"])  # slow, and in its own tests
def test_csv_json_and_markdown_can_be_read_and_say_the_same(clbench, name):
    values = json.loads(clbench(*COMMANDS[name], "--format", "json").stdout)
    lines = list(csv.DictReader(io.StringIO(clbench(*COMMANDS[name], "--format", "csv").stdout)))
    assert len(values) == len(lines) > 0
    assert [{key: "" if value is None else str(value) for key, value in one.items()} for one in values] == [
        {key: one[key].removeprefix("'") for key in value} for one, value in zip(lines, values, strict=True)
    ]
    table = [line for line in clbench(*COMMANDS[name], "--format", "md").stdout.split("\n") if line.startswith("|")]
    header = table[0]
    assert header.count("|") > 3
    if name != "rescore":  # which prints two tables
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {header.count("|")}


def test_markdown_escapes_the_column_rule():
    assert markdown(Sheet("T", ["A"], [["x|y"]])).split("\n")[-1] == r"| x\|y |"


@pytest.mark.parametrize("width", [60, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_width_loses_anything(clbench, monkeypatch, name, width):
    for variable, value in {"COLUMNS": str(width), "TTY_COMPATIBLE": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(variable, value)
    result = clbench(*COMMANDS[name])
    assert result.exit_code == 0, result.output
    shown = click.unstyle(result.stdout)
    lines = shown.split("\n")
    assert max(map(len, lines)) <= width
    assert "…" not in shown
    for number in {"leaderboard": ["48.4 ± 1.2"], "significance": ["48.4 ± 1.2", "[46.5,"], "compare": ["78.4", "(-30.0)"],
                   "rescore": ["49.75", "-5.33"], "reproduce": ["(77.9)"], "plan": ["0 of 1"]}[name]:  # fmt: skip
        assert number in shown
