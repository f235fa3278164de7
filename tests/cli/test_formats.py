"""`--format json` of every command that lists or shows something, and what the shell completes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from clbench.cli.main import main
from tests.conftest import EXAMPLE_PLUGINS, REFERENCE, ROOT

RECORD = "standard-1_rkif_mini_long-sequence_s1_4e7802e8"
LISTINGS = {  # words, and where in the value the text stands
    "methods": (["methods"], lambda value: value[0]["name"], "agem"),
    "method": (["methods", "rkif"], lambda value: value["options"][0]["name"], "window"),
    "streams": (["streams"], lambda value: value["streams"][3]["tasks"][-1], "yahoo"),
    "tasks": (["streams"], lambda value: value["tasks"][0]["metric"], "exact_match"),
    "presets": (["presets"], lambda value: value[0]["preset"], "mini"),
    "preset": (["presets", "T5-large"], lambda value: value[0]["value"], "google-t5/t5-large"),
    "show": (["show", RECORD, "--results", REFERENCE], lambda value: value["method"]["name"], "rkif"),
    "leaderboard": (["leaderboard", "--results", REFERENCE], lambda value: value[0]["method"], "mtl"),
    "compare": (["compare"], lambda value: value[0]["source"], "rkif"),
    "rescore": (["rescore", RECORD, "--results", REFERENCE], lambda value: value[0]["name"], "OP"),
    "suites": (["reproduce"], lambda value: value[0]["suite"], "table1"),
    "kinds": (["plot"], lambda value: value[0]["kind"], "matrix"),
    "audit": (["audit", "--stream", "sst-2", "--backbone", "none"], lambda value: value["tasks"][0]["name"], "sst-2"),
    "doctor": (["doctor", REFERENCE / "toy"], lambda value: str(len(value)), "0"),
    "config": (["run", "--method", "seqlora", "--show-config"], lambda value: value[0]["value"], "seqlora"),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listings_are_there_as_json(clbench, name):
    words, part, expected = LISTINGS[name]
    result = clbench(*words, "--format", "json")
    assert result.exit_code == 0, result.output
    assert part(json.loads(result.stdout)) == expected


def commands(group: click.Group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        inner = commands(command, (*words, name)) if isinstance(command, click.Group) else {}
        found |= {(*words, name): command} | inner
    return found


def test_every_command_has_json_but_those_that_write_a_file():
    silent = {words for words, one in commands(main).items() if not any(param.name == "style" for param in one.params)}
    assert silent == {
        ("sweep",),
        ("sweep", "new"),
        ("streams", "new"),
        ("report",),
        ("predict",),
        ("export",),
        ("tune",),
    }


def test_a_run_is_told_as_json(clbench, tiny_run):
    made = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--seeds", "2", "--format", "json")
    assert made.exit_code == 0, made.output
    rows = json.loads(made.stdout)
    assert [(row["method"], row["seed"]) for row in rows] == [("seqlora", 1), ("seqlora", 2)]
    assert Path(rows[0]["record"]).is_file()
    refused = clbench(*tiny_run, "--method", "seqlora", "--dry-run", "--format", "json")
    assert refused.exit_code == 2


def test_a_stream_of_ones_own_is_checked_as_json(clbench, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,no\nb,yes\n")
    (tmp_path / "s.toml").write_text(
        '[tasks.t]\ntrain = "rows.csv"\ntest = "rows.csv"\nprompt = "{text}"\ntarget = "label"\nlabels = ["no", "yes"]\n'
    )
    value = json.loads(clbench("streams", "check", "s.toml", "--backbone", "none", "--format", "json").stdout)
    assert (value["tasks"][0]["train"], value["prompts"][0]["prompt"]) == (2, "a")
    assert value["findings"]


def completed(*words: object, begun: str) -> list[str]:
    shell = ShellComplete(main, {}, "clbench", "_CLBENCH_COMPLETE")
    return [item.value for item in shell.get_completions([str(word) for word in words], begun)]


def test_names_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completed("run", "--method", begun="r") == ["rkif"]
    assert completed("run", "--plugin", EXAMPLE_PLUGINS / "l2.py", "--method", begun="l2") == ["l2", "l2p"]
    assert completed("sweep", "make", "--method", begun="rkif,ew") == ["rkif,ewc"]
    assert completed("methods", begun="v") == completed("check-method", begun="v") == ["vrmcl"]
    assert completed("run", "--stream", begun="stan") == ["standard:1", "standard:2", "standard:3", "standard"]
    assert completed("run", "--stream", begun="sst-2,ag") == ["sst-2,agnews"]
    assert completed("run", "--order", begun="") == [str(number) for number in range(1, 10)]
    assert completed("run", "--preset", begun="t5") == ["t5-large"]
    assert RECORD in completed("show", "--results", REFERENCE, begun="standard-1_rkif")
    assert completed("reproduce", begun="table1") == ["table1", "table10"]
    assert completed("plot", begun="ma") == ["matrix", "maps"]


def test_all_methods_are_completed(clbench):
    offered = {row["name"] for row in json.loads(clbench("methods", "--format", "json").stdout)}
    assert set(completed("run", "--method", begun="")) == offered


def test_completion_does_not_import_torch():
    code = (
        "import sys; from clbench.cli.main import main\n"
        "try: main(prog_name='clbench')\n"
        "finally: assert not {'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)\n"
    )
    environment = {"_CLBENCH_COMPLETE": "bash_complete", "COMP_WORDS": "clbench run --method r", "COMP_CWORD": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "plain,rkif\n", result.stderr
