"""Settings: precedence, ranges, the recipe."""

import pytest

from clbench.errors import ClbenchError
from clbench.settings import Settings, load_presets, resolve_settings


def test_command_line_over_preset_over_default():
    preset = load_presets()["mini"]
    assert resolve_settings({}).learning_rate == preset["learning_rate"] != Settings.learning_rate
    assert resolve_settings({"learning_rate": "0.5"}).learning_rate == 0.5
    other = resolve_settings({"backbone": "some/t5"})
    assert other.learning_rate == Settings.learning_rate == 3e-4  # the field's common recipe
    assert resolve_settings({"backbone": "some/t5"}, "mini").backbone == "some/t5"
    assert resolve_settings({"backbone": "some/t5"}, "mini").learning_rate == preset["learning_rate"]


def test_every_preset_resolves():
    for name in load_presets():
        resolve_settings({}, name)


PAPER = {  # Appendix D; rank and alpha of the released code
    "learning_rate": 3e-4, "epochs": 10, "max_input": 512, "max_answer": 128, "lora_rank": 8, "lora_alpha": 32.0,
    "lora_dropout": 0.05, "data": "hub",
}  # fmt: skip
T5 = {**PAPER, "batch_size": 8, "max_target": 128, "lora_targets": "q,v", "quantize": "none"}
LLAMA = {**PAPER, "batch_size": 64, "lora_targets": "q_proj,v_proj", "quantize": "8bit", "template": "alpaca"}


@pytest.mark.parametrize(
    ("name", "backbone", "values"),
    [
        ("t5-large", "google-t5/t5-large", T5),
        ("flan-t5-xl", "google/flan-t5-xl", T5),
        ("llama2-7b", "meta-llama/Llama-2-7b-hf", LLAMA),
        ("llama2-13b", "meta-llama/Llama-2-13b-hf", LLAMA),
    ],
)
def test_the_paper_s_presets(name, backbone, values):
    settings = resolve_settings({"stream": "long:1"}, name)
    assert {key: getattr(settings, key) for key in values} == values
    assert settings.backbone == backbone
    assert resolve_settings({"backbone": backbone}) == settings  # as `clbench reproduce --scale paper` names it
    assert resolve_settings({"backbone": "a/folder", "epochs": "1"}, name).lora_targets == values["lora_targets"]
    assert resolve_settings({"learning_rate": "1e-4", "data": "toy"}, name).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "setting 'epochs' takes a whole number from 1 to 10000, not 0"),
        ({"learning_rate": "nan"}, "setting 'learning_rate' takes a finite number of at least 0, not 'nan'"),
        ({"lora_dropout": 1}, "'lora_dropout' takes a finite number of at least 0 and below 1, not 1"),
        ({"precision": "half"}, r"no choice for setting 'precision': 'half' \(known: auto"),
        ({"batch_size": "eight"}, "setting 'batch_size' takes a whole number from 1 to 1000000, not 'eight'"),
        ({"quantize": "16bit"}, r"'16bit'; did you mean '8bit'\? \(known: none, 8bit, 4bit\)"),
        ({"trust_remote_code": "perhaps"}, "setting 'trust_remote_code' takes true or false, not 'perhaps'"),
        ({"epoch": 1}, "no setting 'epoch'; did you mean 'epochs'"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(ClbenchError, match=message):
        resolve_settings(given)


def test_unknown_preset():
    with pytest.raises(ClbenchError, match="no preset 'minni'; did you mean 'mini'"):
        resolve_settings({}, "minni")


def test_the_recipe_leaves_out_what_does_not_change_scores():
    first = Settings(seed=1, stream="long:1", device="cpu", eval_batch_size=4)
    second = Settings(seed=2, stream="long:2", device="auto", eval_batch_size=64)
    assert first.recipe == second.recipe
    assert first.recipe != Settings(epochs=3).recipe


def test_a_preset_can_add_to_itself_for_one_family_of_streams():
    assert resolve_settings({}).max_input == 128
    assert resolve_settings({"stream": "superni:2"}).max_input == 512
    assert resolve_settings({"stream": "superni:2", "max_input": "300"}).max_input == 300
    assert resolve_settings({"stream": "superni:2", "backbone": "google-t5/t5-large"}).max_input == 512
    assert resolve_settings({"stream": "superni:2"}).learning_rate == resolve_settings({}).learning_rate
