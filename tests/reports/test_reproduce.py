"""Suites: every one is planned; the missing runs alone are made, reused between suites, and fill the paper's table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from clbench.data.sources import make_tasks
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.model.backbone import load_backbone
from clbench.records.files import read_record
from clbench.reports.published import read_ledger
from clbench.reports.reproduce import cell_grid, check_planned, cost_estimator, plan_sheet, plan_suite, published_cell
from clbench.reports.suites import Column, Line, Suite, read_scales, read_suite, suite_names
from clbench.running.opening import RunOpener
from clbench.settings import Settings
from tests.conftest import ROOT, TINY
from tests.records.examples import record

METHODS = "seqlora inclora lorareplay ewc l2p lfpt5 moelora olora sapt tasl vrmcl migu rkif mtl".split()


@pytest.fixture
def tiny_suite(tiny_folder, clbench):
    """A function that runs a suite on the tiny T5 with few rows; the words come after the suite's name."""

    def run(*more, backbone=tiny_folder):
        values = {**TINY, "epochs": 1, **({"backbone": backbone} if backbone else {})}
        words = [word for name, value in values.items() for word in ("--setting", f"{name}={value}")]
        return clbench("reproduce", *more, "--limit", 8, *words)

    return run


def test_there_is_a_suite_for_every_table_and_figure():
    assert suite_names() == [f"table{n}" for n in range(1, 11)] + [f"figure{n}" for n in range(3, 10)]
    assert {row.method for row in read_suite("table1").rows} == set(METHODS)


def test_rows_named_migu_are_what_they_are():
    """The paper's row MIGU is OIncLoRA+MIGU on Standard CL, LoRAReplay+MIGU on Long Sequence."""
    opener = RunOpener(find_plugins(), Path("none"))
    cells = plan_suite(read_suite("table1"), read_scales()["paper"], opener, {"data": "toy"}, [1])
    found = {
        (cell.row.label, cell.column.key): entry.op
        for cell in cells
        if cell.row.method == "migu" and (entry := published_cell(read_suite("table1"), cell, read_ledger()))
    }
    assert found == {("OIncLoRA+MIGU", "standard"): 76.6, ("LoRAReplay+MIGU", "long"): 76.5}


def test_the_suites_around_the_headline_number_run_its_smoothing():
    """77.9 / -3.4 is Table 6's row of 0.85, the release's value, not of the text's 0.55."""
    for name in ("table2", "table4", "table5", "table7", "table8", "table10"):
        plugins, scale = find_plugins(), read_scales()["paper"]
        suite = read_suite(name)
        for row in (
            row for row in suite.rows if row.method == "rkif" and row.label not in ("- KI", "no moving average")
        ):
            [spec] = cell_grid(row, suite.columns[0], scale, {"data": "toy"}, [1]).expand(plugins)
            assert spec.options["inner_smoothing"] == 0.85, (name, row.label)
            assert spec.options["outer_smoothing"] == (0.55 if row.label == "- DIE" else 0.85)  # no effect there


@pytest.mark.parametrize("name", ["figure3", "figure9", "table9"])
def test_the_suites_of_several_backbones_name_those_of_the_paper_s_presets(name):
    """LLaMA-2 is the chat model, as the release has it: on the base model the preset would not apply."""
    columns = [column for column in read_suite(name).columns if "paper" in column.scales]
    assert {column.key: column.settings["backbone"] for column in columns} == {
        "T5-large": "google-t5/t5-large",
        "FlanT5-XL": "google/flan-t5-xl",
        "LLaMA2-7B": "meta-llama/Llama-2-7b-chat-hf",
        "LLaMA2-13B": "meta-llama/Llama-2-13b-chat-hf",
    }


def test_superni_is_scored_as_the_paper_scores_it():
    """By accuracy on tasks 363 and 875, by Rouge-L on the others."""
    [column] = read_suite("table3").columns
    assert column.settings["superni_metric"] == "mixed"


def test_the_suites_tables_have_the_cells_of_the_ledger():
    """Every published number of a table has its cell, and that cell asks for the options that the ledger names."""
    ledger, opener = read_ledger(), RunOpener(find_plugins(), Path("none"))
    for name in suite_names():
        suite = read_suite(name)
        if suite.table == "Figure 3":
            continue  # of which the text names two numbers
        cells = plan_suite(suite, read_scales()["paper"], opener, {"data": "toy"}, [1])
        entries = [entry for entry in ledger if (entry.source.name, entry.table) == (suite.source, suite.table)]
        placed = {id(entry): cell for cell in cells if (entry := published_cell(suite, cell, ledger))}
        assert len(placed) == len(entries), name
        for entry in entries:
            cell = placed[id(entry)]
            assert cell.row.method == entry.method
            for run in cell.runs:
                assert dict(entry.options).items() <= dict(run.spec.options).items(), (name, entry.label)


def test_a_plan_lists_what_is_not_available_and_runs_nothing(clbench, tmp_path):
    plan = json.loads(clbench("reproduce", "table1", "--dry-run", "--format", "json").output)
    assert {row["method"] for row in plan} == set(METHODS)
    known = set(find_plugins().methods)
    for row in plan:
        if row["method"] in known:
            assert (row["runs"], row["done"], row["why_not"]) == (1, 0, "")
        else:
            assert (row["runs"], row["why_not"]) == (0, "not available")
    assert not (tmp_path / "results").exists()
    assert "no record of this backbone tells" in clbench("reproduce", "table1", "--dry-run").output
    superni = json.loads(clbench("reproduce", "table3", "--dry-run", "--format", "json").output)
    assert {row["why_not"] for row in superni if row["method"] in known} == {"no superni data at --scale toy"}
    shown = clbench("reproduce", "table3", "--dry-run")
    assert shown.exit_code == 0
    assert shown.output.endswith("\n6 of 6 cells cannot be planned: no superni data at --scale toy\n")


def test_a_scale_sets_options_below_those_of_a_row(tmp_path):
    scale = replace(read_scales()["toy"], options={"lorareplay": {"memory_ratio": 0.5, "mix": "interleave"}})
    rows = [Line("ours", "lorareplay", {"memory_ratio": 0.25}), Line("other", "seqlora")]
    suite = Suite("mine", "Mine", "rkif", [Column("", "agnews,yahoo", ["op"])], rows)
    replay, other = plan_suite(suite, scale, RunOpener(find_plugins(), tmp_path), {})
    options = replay.runs[0].spec.options
    assert (options["memory_ratio"], options["mix"]) == (0.25, "interleave")
    assert other.runs[0].spec.options == {}
    assert plan_sheet(suite, scale, [replay])[1][0]["options"] == "memory_ratio=0.25, mix=interleave"


def test_missing_runs_are_made_once_and_reused_between_suites(tiny_suite, tmp_path):
    first = tiny_suite("table7", "--runs", 1)  # 1%
    assert first.exit_code == 0, first.output
    assert "4 runs are missing" in first.output
    assert len(list((tmp_path / "results").glob("*.json"))) == 1
    values = json.loads(tiny_suite("table7", "--format", "json").stdout)
    records = sorted((tmp_path / "results").glob("*.json"))
    assert len(records) == 4
    by_cell = {(one["row"], one["measure"]): one for one in values}
    assert by_cell["20%", "op"]["published"] == 77.9
    read = {read_record(path).method.options["top"]: read_record(path).metrics.op for path in records}
    assert {row: by_cell[row, "op"]["ours"] for row in ("1%", "10%", "20%", "50%")} == pytest.approx(
        {"1%": read[0.01], "10%": read[0.1], "20%": read[0.2], "50%": read[0.5]}
    )
    stamps = [path.stat().st_mtime_ns for path in records]
    again = tiny_suite("table7", "--format", "md")
    assert [path.stat().st_mtime_ns for path in records] == stamps
    assert "missing" not in again.output
    row = next(line for line in again.output.splitlines() if line.startswith("| 20% |"))
    assert "(77.9)" in row
    assert "(-3.4)" in row
    assert "toy data" in again.output
    assert "not t5-large" in again.output
    other = json.loads(tiny_suite("table8", "--dry-run", "--format", "json").output)
    assert {one["row"]: one["done"] for one in other}["8 inner, 4 outer"] == 1  # the default is Table 7's run
    assert all(one["seconds"] > 0 for one in other if one["row"] != "8 inner, 4 outer")  # estimated from the records


@pytest.mark.parametrize(
    ("words", "cells", "why"),
    [
        (
            ["table1", "--scale", "paper", "--data", "toy"],
            32,
            "no backbone 'google-t5/t5-large' (not 'mini', no local folder, ",
        ),
        (["table3", "--scale", "small", "--data", "nowhere"], 6, "no data 'nowhere': not 'toy' and not a folder"),
    ],
)
def test_a_suite_of_which_an_error_leaves_nothing_is_one(clbench, monkeypatch, words, cells, why):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "none")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", Mock(side_effect=OSError))
    made = clbench("reproduce", *words)
    assert (made.exit_code, made.stdout) == (2, "")
    assert made.stderr.startswith(f"error: {cells} of {cells} cells cannot be planned: {why}")
    shown = clbench("reproduce", *words, "--dry-run")
    assert (shown.exit_code, shown.stderr) == (2, made.stderr)
    assert shown.stdout.count("  cannot be planned  ") == cells
    assert "missing\n" not in shown.stdout
    values = clbench("reproduce", *words, "--dry-run", "--format", "json")
    assert values.exit_code == 2
    assert all(one["why_not"].startswith(why) for one in json.loads(values.stdout))


def test_a_suite_of_which_an_error_leaves_a_part_is_none(tmp_path):
    columns = [Column("toy", "agnews,yahoo", ["op"]), Column("none", "agnews", ["op"], settings={"data": "nowhere"})]
    rows = [Line("a", "seqlora"), Line("b", "lorareplay"), Line("c", "seqlora", {"nix": 1}), Line("d", "unheard")]
    suite, scale = Suite("mine", "Mine", "rkif", columns, rows), read_scales()["toy"]
    cells = plan_suite(suite, scale, RunOpener(find_plugins(), tmp_path), {})
    check_planned(cells)
    sheet, values = plan_sheet(suite, scale, cells)
    no_data, no_option = values[1]["why_not"], values[4]["why_not"]
    assert no_data.startswith("no data 'nowhere'")
    assert no_option.startswith("no option of method 'seqlora': 'nix'")
    states = [
        "0 of 1 done",
        "cannot be planned",
        "0 of 1 done",
        "cannot be planned",
        *["cannot be planned"] * 2,
        *["not available"] * 2,
    ]
    assert [line[6] for line in sheet.lines] == states
    assert sheet.notes == [f"2 of 8 cells cannot be planned: {why}" for why in (no_data, no_option, "not available")]


def test_runs_on_the_same_data_are_opened_one_after_another(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("clbench.running.opening.KEPT", 1)
    monkeypatch.setattr("clbench.running.opening.make_tasks", lambda *given: taken.append(given) or make_tasks(*given))
    columns, rows = (
        [Column(name, name, ["op"]) for name in ("agnews", "yahoo")],
        [Line("a", "seqlora"), Line("b", "ewc")],
    )
    opener, seeds = RunOpener(find_plugins(), tmp_path), [1, 2, 3]
    cells = plan_suite(Suite("mine", "Mine", "rkif", columns, rows), read_scales()["toy"], opener, {}, seeds)
    assert [[(run.spec.stream, run.spec.seed) for run in cell.runs] for cell in cells] == 2 * [
        [(stream, seed) for seed in seeds] for stream in ("agnews", "yahoo")
    ]
    assert len(taken) == 6


def test_a_clbench_run_is_a_cell_of_the_suite(tiny_suite, tiny_run, clbench):
    words = [word for word in tiny_run]
    words[words.index("--limit-train") + 1] = "8"
    assert clbench(*words, "--method", "lorareplay", "--order", "4", "--set", "memory_ratio=0.5").exit_code == 0
    plan = json.loads(tiny_suite("table4", "--dry-run", "--format", "json").output)
    assert {(one["method"], one["column"]) for one in plan if one["done"]} == {("lorareplay", "50%")}


def test_a_failing_run_does_not_stop_the_others(tiny_suite, tmp_path):
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from clbench import hookimpl\nclass M:\n    @hookimpl\n    def learn_task(self, learner, task):\n"
        "        raise ValueError('on purpose')\n@hookimpl\ndef methods(): return {'broken': M}\n"
    )
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'title = "Mine"\nsource = "rkif"\n[[columns]]\nlabel = ""\nstream = "sst-2"\nmeasures = ["op"]\n'
        '[[rows]]\nlabel = "x"\nmethod = "broken"\n[[rows]]\nlabel = "y"\nmethod = "seqlora"\n'
        '[[rows]]\nlabel = "z"\nmethod = "seqlora"\noptions = { nix = 1 }\n'
    )
    result = tiny_suite(suite, "--plugin", plugin, "--format", "table")
    assert result.exit_code == 2, result.output
    text = " ".join(result.output.split())
    assert "failed: broken, sst-2, seed 1" in text
    assert "error: method 'broken' failed on task 'sst-2': ValueError: on purpose" in text
    assert "1 of 2 runs failed" in text
    assert "Missing: 1 run" in text
    assert "No option of method 'seqlora': 'nix'" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table11"], "no suite 'table11'; did you mean 'table1"),
        (["table1", "--scale", "huge"], "no scale 'huge'"),
        (["table1", "--scale", "small"], "--scale small needs --data FOLDER"),
        (["table1", "--setting", "epoch=1"], "no setting 'epoch'; did you mean 'epochs'?"),
        (["none.toml"], "suite 'none.toml'"),
    ],
)
def test_bad_input_is_one_line(clbench, words, message):
    result = clbench("reproduce", *words)
    assert result.exit_code == 2
    assert message in result.output


def test_a_malformed_suite_is_an_error(tmp_path):
    file = tmp_path / "bad.toml"
    shutil.copy(ROOT / "tasks" / "suites" / "table2.toml", file)
    file.write_text(file.read_text().replace('method = "rkif"', 'metod = "rkif"', 1))
    with pytest.raises(ClbenchError, match=r"bad.toml.*metod"):
        read_suite(str(file))
    file.write_text(file.read_text().replace("metod", "method").replace('"bwt"', '"bwd"'))
    with pytest.raises(ClbenchError, match=r"measure 'bwd'; did you mean 'bwt'"):
        read_suite(str(file))


def test_the_estimate_by_hand():
    """100 rows x 2 epochs in 40 s, 30 answers in 6 s; so 50 rows x 4 epochs take 40 s, 10 answers 2 s."""
    fields = {
        "scores": [[1.0, None], [1.0, 1.0]],
        "tasks": [
            {"name": "a", "version": 1, "train": 60, "test": 10},
            {"name": "b", "version": 1, "train": 40, "test": 10},
        ],
        "timings": {"learn_seconds": [30, 10], "evaluate_seconds": [[2], [2, 2]]},
    }

    class Fifty:
        train, test = range(50), range(10)

    estimate = cost_estimator([record("seqlora", epochs=2, fields=fields)])
    assert estimate("seqlora", Settings(epochs=4), [Fifty()]) == pytest.approx(42)
    assert estimate("rkif", Settings(epochs=4), [Fifty()]) == pytest.approx(42)  # as other methods
    assert estimate("rkif", Settings(backbone="t5-large"), [Fifty()]) is None


def test_a_suite_loads_each_backbone_once(tiny_suite, tiny_folder, tmp_path, monkeypatch):
    """Two rows by two columns of two backbones: four runs, two loads, one after another."""
    other = shutil.copytree(tiny_folder, tmp_path / "other-t5")
    suite = tmp_path / "two.toml"
    columns = [
        f'[[columns]]\nlabel = "{folder.name}"\nstream = "sst-2"\nmeasures = ["op"]\nsettings = {{ backbone = "{folder}" }}\n'
        for folder in (tiny_folder, other)
    ]
    rows = ['[[rows]]\nlabel = "a"\nmethod = "seqlora"\n', '[[rows]]\nlabel = "b"\nmethod = "lorareplay"\n']
    suite.write_text('title = "T"\nsource = "rkif"\n' + "".join(columns + rows))
    loaded = []

    def load_and_note(name, *words):
        loaded.append(name)
        return load_backbone(name, *words)

    monkeypatch.setattr("clbench.model.backbone.load_backbone", load_and_note)
    result = tiny_suite(suite, backbone=None)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "results").glob("*.json"))) == 4
    assert loaded == [str(tiny_folder), str(other)]


def test_a_figure_is_drawn_at_the_end_from_maps_that_its_runs_log(tiny_suite, tmp_path):
    pytest.importorskip("matplotlib")
    result = tiny_suite("figure8")
    assert result.exit_code == 0, result.output
    assert "picture: results/figure8_toy.png" in result.output
    assert (tmp_path / "results" / "figure8_toy.png").read_bytes().startswith(b"\x89PNG")
    (maps,) = (tmp_path / "results").glob("*.maps.safetensors")
    again = tiny_suite("figure5")  # the same run
    assert "missing" not in again.output
    assert (tmp_path / "results" / "figure5_toy.png").exists()
    maps.unlink()
    assert "1 run is missing" in tiny_suite("figure5", "--dry-run").output
    assert json.loads(tiny_suite("figure4", "--dry-run", "--format", "json").output)[0]["done"] == 0
    none = tiny_suite("figure4", "--runs", 0)
    assert none.exit_code == 0
    assert "no picture: none of its runs is done" in none.output
