"""Ours beside published numbers: which row is taken, what is said to differ, and that the ledger is what is shown."""

import json
import re
import shutil

import pytest
from rich.console import Console

from clbench.records.files import read_records
from clbench.reports.comparison import compare_rows, compare_sheet, differences, find_published
from clbench.reports.leaderboard import make_rows
from clbench.reports.published import read_ledger
from clbench.reports.tables import rich_sheet, sheet_text
from tests.conftest import REFERENCE
from tests.records.examples import record
from tests.reports.test_published import SHIPPED

PAPER = {  # the recipe of Recurrent-KIF on T5-large
    "backbone": "google-t5/t5-large", "data": "hub", "epochs": 10, "learning_rate": 3e-4, "batch_size": 8, "max_input": 512,
    "lora_targets": "q,v",
}  # fmt: skip


def published(method="rkif", train=1000, source="rkif", **given):
    record_of = {"options": given.pop("options", {})} | given
    fields = {
        "tasks": [{"name": "agnews", "version": 1, "train": train}],
        "environment": {"precision": "float32, last answers in float16"},
    }
    made = record(method, fields=fields, **{**PAPER, **record_of})
    (row,) = make_rows([made])
    (entry,) = find_published(row, read_ledger(), source)
    return row, entry


def test_the_nearest_row_is_taken():
    assert published(stream="long:2")[1].table == "Table 1"
    assert published(stream="long:1")[1].table == "Table 6"  # the very order, at the smoothing of the text
    released = published(stream="long:1", options={"inner_smoothing": 0.85, "outer_smoothing": 0.85})[1]
    assert (released.table, released.op) == ("Table 2", 77.9)  # the main row
    _, ablation = published(stream="long:1", options={"merge": "all"})
    assert (ablation.label, ablation.op) == ("- KI", 52.3)
    _, log = published("olora", stream="standard:1", source="olora")
    assert (log.table, log.op) == ("released logs", 78.3651)
    _, base = published("migu", stream="long:2", source="migu", options={"base": "lorareplay"})
    assert base.op == 76.5


def test_the_same_protocol_has_nothing_but_its_dev_use_and_its_extent():
    row, entry = published(stream="long:2")
    assert differences(row, entry) == [
        "no dev; theirs: 25 dev rows a seen task, some in test",
        "order 4 alone, not the mean of all",  # `record` says order 4 of every stream
        "1 run, not 3",
    ]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"backbone": "mini"}, "mini, not t5-large"),
        ({"data": "toy"}, "toy data"),
        ({"train": 500}, "500, not 1000 training rows a task"),
        ({"limit_test": 100}, "100 test rows a task, not 500 rows a class"),
        ({"epochs": 3}, "3, not 10 epochs"),
        ({"learning_rate": 1e-3}, "lr 0.001, not 0.0003"),
        ({"options": {"learning_rate": 0.3}}, "lr 0.3, not 0.0003"),
        ({"batch_size": 64}, "batch 64, not 8"),
        ({"max_input": 1024}, "input 1024, not 512 tokens"),
        ({"lora_targets": "all-linear"}, "LoRA on all-linear, not q,v"),
        ({"options": {"ties": "out"}}, "ours with ties=out"),
        ({"validation": 5, "evaluate_on": "validation"}, "scored on validation rows"),
        ({"method": "ewc", "stream": "standard:1"}, "theirs: full fine-tuning of the whole model"),
        ({"method": "ewc", "stream": "standard:1"}, "1000 training rows a task, not 1000 a class"),
        ({"method": "l2p"}, "copied there from another paper"),
        ({"method": "sapt", "stream": "long:2"}, "synthesised"),
        ({"method": "migu", "stream": "long:2", "options": {"base": "lorareplay"}}, "mixes two configurations"),
        ({"method": "sapt", "stream": "standard:1", "source": "forever"}, "known at second hand"),
        ({"method": "sapt", "stream": "standard:1", "source": "forever"}, "their recipe not stated"),
    ],
)
def test_what_differs_is_said(given, text):
    assert text in "; ".join(differences(*published(**given)))


def test_a_difference_between_incomparable_runs_is_in_parentheses_with_a_note():
    (row,) = make_rows([record(op=70.0, fields={"tasks": [{"name": "agnews", "version": 1, "train": 100}]})])
    sheet = compare_sheet(compare_rows([row], read_ledger()))
    assert sheet.lines[0][2:5] == ["70.0", "78.1", "(-8.1)"]
    assert "says nothing about the method" in sheet.notes[0]
    row, _ = published(stream="long:1")
    sheet = compare_sheet(compare_rows([row], read_ledger()))
    assert sheet.lines[0][4] == "-8.1"
    assert not sheet.notes


def test_every_row_of_the_reference_records_says_what_differs(clbench):
    for folder in (REFERENCE, REFERENCE / "toy"):
        rows = json.loads(clbench("compare", "--results", folder, "--format", "json").output)
        assert {"mtl", "lorareplay", "rkif", "seqlora"} <= {row["method"] for row in rows}
        for row in rows:
            if row["source"] is None:
                assert row["differs"].startswith(("no published number in the ledger", "none by rkif; see --source "))
                continue
            assert row["op_difference"] == pytest.approx(row["op"] - row["published_op"])
            assert "mini, not t5-large" in row["differs"]
            assert re.search(r"5, not \d+ epochs", row["differs"])
            assert not row["comparable"]
    trace = clbench("compare", "--results", REFERENCE / "trace")
    assert "none by rkif; see --source trace" in trace.output
    alone = clbench("compare", "--results", REFERENCE / "single")
    assert "no published number in the ledger" in alone.output


def test_compare_is_the_leaderboard_with_published_numbers_in_all_formats(clbench):
    for style in ("table", "md", "latex", "csv", "json"):
        one = clbench("compare", "--results", REFERENCE, "--format", style)
        two = clbench("leaderboard", "--published", "--results", REFERENCE, "--format", style)
        assert one.exit_code == 0
        assert one.output == two.output


def test_editing_one_published_number_changes_the_table(clbench, tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "ledger")
    words = ["compare", "--results", REFERENCE, "--ledger", tmp_path / "ledger", "--format", "md"]
    assert "| 78.4 |" in clbench(*words).output
    file = tmp_path / "ledger" / "rkif.toml"
    file.write_text(file.read_text().replace("op = 78.4", "op = 12.3"))
    assert "| 12.3 | (+36.1) |" in clbench(*words).output
    file.write_text(file.read_text().replace("op = 12.3", "op = high"))
    broken = clbench(*words)
    assert broken.exit_code == 2
    assert broken.output.startswith("error: rkif.toml: not TOML")
    assert "no source of published numbers 'rkf'; did you mean 'rkif'?" in clbench(*words[:3], "--source", "rkf").output


@pytest.mark.parametrize("width", [60, 90, 200])
def test_nothing_is_lost_in_any_width(width):
    rows = make_rows(read_records(REFERENCE))
    sheet = compare_sheet(compare_rows(rows, read_ledger()))
    console = Console(width=width, record=True, quiet=True)
    console.quiet = False
    with console.capture() as captured:
        console.print(rich_sheet(sheet, width))
    text = captured.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for number in ("78.4", "(-30.0)", "-5.8"):
        assert number in text


def test_latex_escapes_what_it_must():
    rows = make_rows([record(options={"top_k": "5%"}, fields={"tasks": [{"name": "a", "version": 1, "train": 9}]})])
    text = sheet_text(compare_sheet(compare_rows(rows, read_ledger())), [], "latex")
    assert r"rkif (top\_k=5\%)" in text
    assert r"$\Delta$ OP" in text
