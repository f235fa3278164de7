"""The spec as a value: equality, hash, JSON round trip."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.errors import ClbenchError
from clbench.settings import Settings
from clbench.spec import RunSpec

FINITE = st.floats(allow_nan=False, allow_infinity=False)
OPTIONS = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=8))
SETTINGS = st.builds(
    Settings,
    stream=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    seed=st.integers(0, 2**40),
    epochs=st.integers(1, 99),
    learning_rate=st.floats(0, 1),
    limit_train=st.none() | st.integers(1, 99),
    gradient_checkpointing=st.booleans(),
)
SPECS = st.builds(RunSpec, st.text(max_size=8), OPTIONS, SETTINGS)


@given(SPECS)
def test_a_spec_can_be_written_down(spec):
    again = RunSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_json() == spec.to_json()
    assert list(map(type, again.options.values())) == [type(spec.options[name]) for name in again.options]


def test_specs_are_values():
    one = RunSpec("ewc", {"a": 1, "b": None}, Settings())
    assert {one: 1}[RunSpec("ewc", {"b": None, "a": 1}, Settings())] == 1
    for other in (
        RunSpec("olora", one.options, Settings()),
        RunSpec("ewc", {"a": 2, "b": None}, Settings()),
        replace(one, settings=Settings(seed=2)),
    ):
        assert other != one
        assert other.to_json() != one.to_json()
    assert str(one) == "ewc, long:1, seed 1"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content["settings"].update(colour="red"),
            "setting 'colour' is unknown here",
        ),
        (lambda content: content.pop("seed"), r"not the spec of a run: KeyError\('seed'\)"),
    ],
)
def test_what_is_no_spec_is_one_line(edit, message):
    content = json.loads(RunSpec("ewc", {}, Settings()).to_json())
    edit(content)
    with pytest.raises(ClbenchError, match=message):
        RunSpec.from_dict(content)
    with pytest.raises(ClbenchError, match="not the spec of a run"):
        RunSpec.from_json("{")
