"""`clbench presets`: the list, and every value of one with its origin."""

import re

from clbench.settings import list_settings


def row(output: str, first: str) -> list[str]:
    cells = [re.split(" {2,}", line) for line in output.splitlines()]
    return next(cells_of for cells_of in cells if cells_of[0] == first)


def test_the_list(clbench):
    output = clbench("presets").output
    assert row(output, "llama2-13b")[1:] == [
        "meta-llama/Llama-2-13b-chat-hf", "0.0003", "10", "64", "512", "q_proj,v_proj", "8bit",
    ]  # fmt: skip
    assert row(output, "mini")[1:4] == ["mini", "0.001", "5"]
    assert "superni" not in output


def test_every_value_of_one(clbench):
    output = clbench("presets", "flan-t5-xl").output
    for name in list_settings():
        assert (f"\n{name} " in output) == (name not in ("stream", "seed"))
    assert row(output, "batch_size")[1:3] == ["8", "flan-t5-xl"]
    assert row(output, "warmup_steps")[1:3] == ["50", "default"]
    family = clbench("presets", "mini:superni").output
    assert row(family, "max_input")[1:3] == ["512", "mini:superni"]
    assert row(family, "epochs")[1:3] == ["5", "mini"]


def test_the_tuned_one_comes_with_clbench(clbench, tmp_path, monkeypatch):
    assert "--preset tasks/tuned/mini.toml: tuned for mini, 10 trials on order 2" in clbench("presets").output
    monkeypatch.chdir(tmp_path)  # not where its source lies
    shown = clbench("methods", "ewc", "--preset", "tasks/tuned/mini.toml").output
    assert "preset tasks/tuned/mini.toml" in shown
    missing = clbench("methods", "ewc", "--preset", "tasks/tuned/mine.toml").output
    assert "no tuned preset 'tasks/tuned/mine.toml'" in missing


def test_an_unknown_one(clbench):
    result = clbench("presets", "t5-larg")
    assert result.exit_code == 2
    assert result.output.startswith(
        "error: no preset 't5-larg'; did you mean 't5-large'? (known: mini, mini:superni, t5-l"
    )


def test_what_applies_to_a_method(clbench):
    assert row(clbench("methods", "ewc", "--preset", "t5-large").output, "strength")[2] == "400.0"
    output = clbench("methods", "ewc", "--preset", "mini").output
    assert row(output, "strength")[2] == "0.1"
    assert "preset mini; default: 400.0" in output
    assert row(output, "decay")[2] == "1.0"
    assert clbench("methods", "ewc", "--preset", "minni").exit_code == 2
