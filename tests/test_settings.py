"""Settings: precedence, ranges, the recipe."""

import pytest

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.settings import Settings, load_presets, preset_layers, resolve_settings
from clbench.spec import make_spec


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
    "lora_dropout": 0.05, "data": "hub", "warmup_steps": 50, "warmup_part": None,
}  # fmt: skip
T5 = {
    **PAPER,
    "batch_size": 8,
    "least_batch": 7,
    "batching": "shuffled",
    "max_target": 128,
    "lora_targets": "q,v",
    "quantize": "none",
}
LLAMA = {
    **PAPER,
    "batch_size": 64,
    "least_batch": 49,
    "batching": "bucketed",
    "lora_targets": "q_proj,v_proj",
    "quantize": "8bit",
    "template": "alpaca",
}


@pytest.mark.parametrize(
    ("name", "backbone", "values"),
    [
        ("t5-large", "google-t5/t5-large", T5),
        ("flan-t5-xl", "google/flan-t5-xl", T5),
        ("llama2-7b", "meta-llama/Llama-2-7b-chat-hf", LLAMA),  # the models that the release names
        ("llama2-13b", "meta-llama/Llama-2-13b-chat-hf", LLAMA),
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


@pytest.mark.parametrize(
    "by_name",
    ["task363_sst2_polarity_classification", "task002_quoref_answer_generation, task591_sciq_answer_generation"],
)
def test_tasks_by_name_have_the_recipe_of_their_family(by_name):
    assert resolve_settings({"stream": by_name}).max_input == resolve_settings({"stream": "superni:1"}).max_input == 512
    assert resolve_settings({"stream": "agnews,yahoo"}).max_input == 128
    assert resolve_settings({"stream": f"agnews,{by_name}"}).max_input == 128  # of no family


def test_options_found_on_the_embedded_backbone_are_its_preset_s_alone():
    plugins = find_plugins()
    found = {
        name for preset, values in load_presets().items() for name in values.get("options", {}) if preset == "mini"
    }
    assert found == {name for values in load_presets().values() for name in values.get("options", {})} == {
        "ewc", "vrmcl", "l2p", "lfpt5",
    }  # fmt: skip
    for name in found:
        method = plugins.method(name)
        here, there = make_spec(method, {}, {}), make_spec(method, {}, {"backbone": "google-t5/t5-large"})
        assert there.options == method.resolve_options({})
        assert {**there.options, **preset_layers({}, "mini", name)["mini"].options} == here.options != there.options
    ewc = plugins.method("ewc")
    assert make_spec(ewc, {"strength": "7"}, {}).options["strength"] == 7.0  # the user's wins
    assert make_spec(ewc, {}, {"backbone": "a/folder"}, "mini").options["strength"] == 0.1
