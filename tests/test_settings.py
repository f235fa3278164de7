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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "setting 'epochs' must be at least 1, not 0"),
        ({"learning_rate": "nan"}, "setting 'learning_rate' must be at least 0"),
        ({"lora_dropout": 1}, "must be below 1"),
        ({"precision": "half"}, r"no choice for option 'precision': 'half' \(known: auto"),
        ({"batch_size": "eight"}, "option 'batch_size' takes int, not 'eight'"),
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
