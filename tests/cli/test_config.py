"""A value comes from the command line, else from the file, the environment, the preset, the default; and one sees which."""

import re
from pathlib import Path

import pytest

FILE = """
method = "lorareplay"
order = 5
seeds = [7]
[options]
memory_ratio = 0.5
mix = "concat"
[settings]
epochs = 3
batch_size = 4
gradient_checkpointing = true
"""


@pytest.fixture
def shown(clbench, tmp_path: Path):
    """A function that returns value and origin of everything that a run would have."""
    (tmp_path / "run.toml").write_text(FILE)

    def call(*words: str) -> dict[str, tuple[str, str]]:
        result = clbench("run", "--show-config", *words)
        assert result.exit_code == 0, result.output
        rows = [re.split(" {2,}", line) for line in result.output.splitlines()]
        return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}

    return call


def test_each_place_wins_over_the_next(shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_RUN_EPOCHS", "5")
    monkeypatch.setenv("CLBENCH_RUN_MAX_INPUT", "99")
    monkeypatch.setenv("CLBENCH_RUN_LORA_RANK", "3")
    found = shown("--config", "run.toml", "--batch-size", "2", "--lora-rank", "4")
    assert found["method"] == ("lorareplay", "run.toml")
    assert found["stream"] == ("long:2", "run.toml")
    assert found["batch_size"] == ("2", "command line")
    assert found["lora_rank"] == ("4", "command line")
    assert found["epochs"] == ("3", "run.toml")
    assert found["gradient_checkpointing"] == ("true", "run.toml")
    assert found["max_input"] == ("99", "CLBENCH_RUN_MAX_INPUT")
    assert found["learning_rate"] == ("0.001", "preset mini")
    assert found["weight_decay"] == ("0.0", "default")
    assert found["memory_ratio (option)"] == ("0.5", "run.toml")
    assert found["window (option)"][1] == "default"


def test_the_environment_alone(shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_RUN_EPOCHS", "5")
    assert shown("--method", "seqlora")["epochs"] == ("5", "CLBENCH_RUN_EPOCHS")


def test_an_option_of_the_command_line_stands_beside_those_of_the_file(shown) -> None:
    found = shown("--config", "run.toml", "--set", "memory_ratio=0.25")
    assert found["memory_ratio (option)"] == ("0.25", "command line")
    assert found["mix (option)"] == ("concat", "run.toml")


def test_a_stream_of_the_command_line_replaces_the_order_of_the_file(shown) -> None:
    assert shown("--config", "run.toml", "--stream", "sst-2")["stream"] == ("sst-2", "command line")
    assert shown("--config", "run.toml", "--order", "6")["stream"] == ("long:3", "command line")


def test_probes_are_given_one_by_one_or_as_a_list(shown, tmp_path: Path) -> None:
    assert shown("--method", "seqlora")["probe"] == ("none", "default")
    assert shown("--method", "seqlora", "--probe")["probe"] == ("embedded", "command line")
    assert shown("--method", "seqlora", "--probe", "a.txt", "--probe", "b.txt")["probe"] == (
        "a.txt,b.txt",
        "command line",
    )
    (tmp_path / "probed.toml").write_text(
        'method = "seqlora"\n[settings]\nprobe = ["a.txt", "b.txt"]\nprobe_questions = "q.jsonl"\n'
    )
    found = shown("--config", "probed.toml")
    assert (found["probe"][0], found["probe_questions"][0]) == ("a.txt,b.txt", "q.jsonl")


def test_a_run_from_a_file(clbench, tiny_run: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'method = "seqlora"\nstream = "sst-2"\nseeds = [7, 9]\nresults = "here"\nplugins = []\n[settings]\nepochs = 2\n'
    )
    at = tiny_run.index("--epochs")
    result = clbench(*tiny_run[:at], *tiny_run[at + 2 :], "--config", "run.toml")
    assert result.exit_code == 0, result.output
    assert sorted(path.name.split("_")[-2] for path in (tmp_path / "here").glob("*.json")) == ["s7", "s9"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 1", ["run.toml", "epoch", "method"]),
        ("epochs = 1", ["epochs", "[settings]"]),
        ("[settings]\nepoch = 1", ["epoch", "epochs"]),
        ("[settings]\nseed = 1", ["seed"]),
        ("settings = 3", ["settings", "table"]),
        ("[", ["run.toml"]),
    ],
)
def test_a_wrong_file_is_refused(clbench, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "run.toml").write_text(text)
    result = clbench("run", "--config", "run.toml")
    assert result.exit_code == 2
    assert all(word in result.output for word in words), result.output


def test_no_method_and_no_file(clbench) -> None:
    result = clbench("run", "--config", "none.toml")
    assert result.exit_code == 2
    assert "none.toml" in result.output
    result = clbench("run")
    assert result.exit_code == 2
    assert "--method" in result.output
