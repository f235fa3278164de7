"""The real command: what it prints, and how it fails."""

import gzip
import json
import re
import shutil
import subprocess
import sys

import pytest
from peft import PeftModel
from safetensors.torch import load_file

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.toy import toy_rows
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone
from clbench.records.files import read_record
from clbench.settings import Settings
from tests.conftest import EXAMPLE_PLUGINS, ROOT, run_in_subprocess
from tests.data.test_sources import ROW, write_folder

EXAMPLE_PLUGIN = EXAMPLE_PLUGINS / "l2.py"


def test_a_run_prints_its_tasks_and_the_leaderboard_and_is_not_repeated(clbench, tiny_run, tmp_path):
    words = [*tiny_run, "--stream", "sst-2,agnews", "--method", "seqlora", "--seeds", "2"]
    first = clbench(*words)
    assert first.exit_code == 0, first.output
    assert "sst-2,agnews: sst-2 > agnews" in first.output
    assert "Leaderboard" in first.output
    records = sorted((tmp_path / "results").glob("*.json"))
    assert len(records) == 2
    stamps = [path.stat().st_mtime_ns for path in records]
    again = clbench(*words)
    assert again.output.count("already finished") == 2
    assert [path.stat().st_mtime_ns for path in records] == stamps
    plain = records[0].with_suffix(".answers.jsonl")
    packed = plain.with_name(f"{plain.name}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert clbench(*words).output.count("already finished") == 2
    forced = clbench(*words, "--force")
    assert "already finished" not in forced.output
    assert not packed.exists()  # it is of the record that was replaced
    assert all(path.stat().st_mtime_ns > stamp for path, stamp in zip(records, stamps, strict=True))

    record = read_record(records[0])
    assert json.loads(records[0].read_text())["schema_version"] == 2
    assert [task.name for task in record.tasks] == ["sst-2", "agnews"]
    assert record.scores[0][1] is None
    assert None not in (record.scores[0][0], *record.scores[1])
    assert record.settings["max_input"] == 96
    assert record.seed == 1
    assert record.environment.versions["torch"]
    answers = [json.loads(line) for line in records[0].with_suffix(".answers.jsonl").read_text().splitlines()]
    assert len(answers) == 3 * 8
    assert {(row["after"], row["task"]) for row in answers} == {(0, "sst-2"), (1, "sst-2"), (1, "agnews")}
    scores = [row["score"] for row in answers if (row["after"], row["task"]) == (1, "sst-2")]
    assert sum(scores) / 8 == read_record(records[0]).scores[1][0]
    for row in answers:  # 8 of the task's test rows, each by its number there
        split, number = row["id"].split(":")
        assert (split, toy_rows(row["task"], "test")[int(number)][1]) == ("test", row["target"])
    assert len({row["id"] for row in answers if row["after"] == 0}) == 8
    assert not list((tmp_path / "results").glob("*.checkpoint"))

    shown = clbench("show", records[0].stem)
    assert shown.exit_code == 0
    assert "agnews" in shown.output
    assert "op " in shown.output
    rows = json.loads(clbench("leaderboard", "--format", "json").output)
    assert [(row["method"], row["runs"]) for row in rows] == [("seqlora", 2)]


def test_a_plugin_file_runs(clbench, tiny_run):
    result = clbench(
        *tiny_run, "--stream", "sst-2", "--method", "l2", "--plugin", EXAMPLE_PLUGIN, "--set", "strength=0.5"
    )
    assert result.exit_code == 0, result.output
    assert "l2 (strength=0.5)" in result.output


def test_the_saved_adapter_reloads_to_the_same_answers(clbench, tiny_run, tiny_folder, tmp_path):
    result = clbench(*tiny_run, "--stream", "sst-2,agnews", "--method", "seqlora", "--epochs", "12", "--save-adapter")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "results").glob("*.adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 6  # A and B of q and v in one encoder layer, two decoder attentions
    assert all(tensor.abs().sum() > 0 for tensor in tensors.values())

    (path,) = (tmp_path / "results").glob("*.answers.jsonl")
    recorded = [json.loads(line) for line in path.read_text().splitlines()]
    answers = [row["answer"] for row in recorded if (row["after"], row["task"]) == (1, "agnews")]
    assert len(set(answers)) > 1
    task = load_tasks("toy", find_stream("sst-2,agnews"), 16, 8, 1)[1]
    backbone = load_backbone(str(tiny_folder), "cpu")
    learner = Learner(backbone, Settings(lora_targets="q,v", lora_rank=2, max_input=96, max_target=8, max_answer=4))
    learner.attached.add_lora()
    assert learner.answer(task.test) != answers
    learner.attached.detach()
    model = PeftModel.from_pretrained(backbone.model, folder).eval()
    batch = backbone.tokenizer([example.prompt for example in task.test], padding=True, return_tensors="pt")
    tokens = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert [text.strip() for text in backbone.tokenizer.batch_decode(tokens, skip_special_tokens=True)] == answers


def test_methods_and_their_options_are_listed(clbench):
    listed = clbench("methods").output
    for name in ("seqlora", "lorareplay", "mtl", "rkif"):
        assert name in listed
    options = clbench("methods", "rkif").output
    assert cells(options, "memory_ratio")[:3] == ["memory_ratio", "float, > 0, <= 1", "0.02"]
    assert "search: 0.005 to 0.1, log" in options
    assert cells(options, "variant")[0::2] == ["variant", "paper"]
    assert "search: 2, 4, 8, 16, 32" in options
    assert "search" not in clbench("methods", "l2", "--plugin", EXAMPLE_PLUGINS / "l2.py").output  # no option has one
    assert "(none)" in clbench("methods", "seqlora").output


def cells(output: str, first: str) -> list[str]:
    """Return the cells of the table's row that begins with a text."""
    rows = [re.split(" {2,}", line) for line in output.splitlines()]
    return next(row for row in rows if row[0] == first)


def test_streams_are_listed(clbench):
    listed = " ".join(clbench("streams").output.split())
    for text in ("standard:1", "long:3", "Office Holder"):
        assert text in listed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--method", "ewx"], "no method 'ewx'"),
        (["run", "--method", "rkf"], "did you mean 'rkif'?"),
        (["run", "--method", "rkif", "--order", "0"], "no order '0' (known: 1, 2, 3, 4, 5, 6, 7, 8, 9)"),
        (["run", "--method", "rkif", "--stream", "lang:1"], "no stream or task 'lang:1'; did you mean 'long:1'?"),
        (["run", "--method", "rkif", "--order", "4", "--stream", "long:2"], "--order 4 is long:1, not --stream long:2"),
        (["run", "--method", "rkif", "--set", "topp=1"], "no option of method 'rkif': 'topp'; did you mean 'top'?"),
        (
            ["run", "--method", "rkif", "--set", "top=much"],
            "finite number above 0 and below 1, not 'much'",
        ),
        (
            ["run", "--method", "rkif", "--set", "top=2"],
            "option 'top' of method 'rkif' takes a finite number above 0 and below 1, not '2'",
        ),
        (["run", "--method", "rkif", "--set", "top"], "--set takes OPTION=VALUE, not 'top'"),
        (["run", "--method", "rkif", "--backbone", "nothing/here"], "no backbone 'nothing/here'"),
        (["run", "--method", "rkif", "--backbone", "."], "the folder has no config.json"),
        (["run", "--method", "rkif", "--data", "nowhere"], "no data 'nowhere': not 'toy' and not a folder"),
        (
            ["run", "--method", "rkif", "--epochs", "0"],
            "setting 'epochs' takes a whole number from 1 to 10000, not '0'",
        ),
        (["run", "--method", "rkif", "--seeds", "x"], "--seeds takes how many (3) or which (1,2,5"),
        (["run", "--method", "rkif", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["run", "--method", "rkif", "--plugin", "none.py"], "no plugin file"),
        (["run", "--method", "rkif", "--preset", "huge"], "no preset 'huge'"),
        (["methods", "nix"], "no method 'nix'"),
        (["leaderboard"], "no results folder 'results'"),
        (["leaderboard", "--stream", "nix"], "no stream 'nix'"),
        (["show", "nix"], "no results folder 'results'"),
        (["show", "nowhere/nix.json"], "no record 'nowhere/nix.json'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(clbench, tmp_path, words, message):
    result = clbench(*words)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.json*"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[{", "sst-2.json: cannot be read as JSON"),
        ([], "sst-2.json: the list of rows is empty"),
        ([{**ROW, "output": "Great"}], "sst-2.json: row 0: answer 'Great' is not in the label set (Good, Bad)"),
    ],
)
def test_bad_data_is_one_line_and_exit_code_2(clbench, tmp_path, tiny_run, rows, message):
    folder = write_folder(tmp_path / "data", [ROW], rows)
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--data", folder)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "method 'm' failed on task 'sst-2': TypeError: learn_task returned None"),
        ("raise KeyError('lost')", "method 'm' failed on task 'sst-2': KeyError: 'lost'"),
        ("learner.weights.data.fill_(float('nan')); return {}", "method 'm' failed on task 'sst-2': the weights of "),
        ("self.state = {1}; return {}", "method 'm': state.method.state: a set cannot be checkpointed"),
        ("task.test; return {'x': 'y'}", "method 'm' failed on task 'sst-2': ValueError: could not convert"),
    ],
)
def test_a_failing_method_is_one_line_and_leaves_nothing(clbench, tmp_path, tiny_run, body, message):
    plugin = tmp_path / "m.py"
    plugin.write_text(
        "from dataclasses import dataclass, field\nfrom clbench import hookimpl\n"
        "@dataclass(eq=False)\nclass M:\n    state: object = field(default=None, init=False)\n"
        f"    @hookimpl\n    def learn_task(self, learner, task):\n        {body}\n"
        "@hookimpl\ndef methods(): return {'m': M}\n"
    )
    result = clbench(*tiny_run, "--method", "m", "--stream", "sst-2", "--plugin", plugin)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not [path for path in (tmp_path / "results").glob("*") if not path.name.endswith(".lock")]
    for words in (["--traceback", *tiny_run], [*tiny_run, "--traceback"]):
        result = clbench(*words, "--method", "m", "--stream", "sst-2", "--plugin", plugin)
        assert result.exit_code == 2
        assert "Traceback (most recent call last)" in result.output


def test_unknown_lora_targets_name_the_modules(clbench, tiny_run):
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--lora-targets", "query")
    assert result.exit_code == 2
    assert re.search(
        r"lora_targets 'query' does not fit .* \(its linear modules: k, lm_head, o, q, v",
        " ".join(result.output.split()),
    )


def test_light_commands_do_not_import_torch():
    code = (
        "import sys; from click.testing import CliRunner; from clbench.cli.main import main\n"
        "for words in (['--help'], ['run', '--help'], ['streams'], ['leaderboard', '--results', sys.argv[1]],"
        "              ['audit', '--stream', 'sst-2', '--backbone', 'none']):\n"
        "    result = CliRunner().invoke(main, words); assert result.exit_code == 0, result.output\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT / "results" / "reference")], check=True, timeout=120)


def test_a_hub_id_loads_from_the_hub_cache_without_network(tiny_run, tiny_folder, tmp_path):
    snapshot = tmp_path / "cache" / "models--someone--tiny-t5" / "snapshots" / "abc123"
    shutil.copytree(tiny_folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc123")
    words = [*tiny_run, "--method", "seqlora", "--stream", "sst-2"]
    words[words.index("--backbone") + 1] = "someone/tiny-t5"
    process = run_in_subprocess(words, tmp_path, HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "seqlora, sst-2, seed 1: OP" in output
