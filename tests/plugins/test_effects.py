"""Options that are declared to be without effect in a form really have none, with the real methods."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch

from clbench.discovery import find_plugins
from clbench.options import OnlyIf, Option
from tests.conftest import add_lora

METHODS = find_plugins().methods
BASE = {
    "window": 2,
    "day": 1,
    "outer_steps": 1,
    "memory_ratio": 0.25,
    "generator_steps": 2,
    "prompt_length": 3,
    "samples_per_class": 1,
}
CASES = [
    (method.name, option.name, other, without)
    for method in METHODS.values()
    for option in method.options.values()
    for condition in option.conditions
    for other, values in condition.values.items()
    for without in (
        [choice for choice in method.options[other].choices if choice not in values]
        if isinstance(condition, OnlyIf)
        else values
    )
]


def other_value(option: Option) -> Any:
    """Return a value that is not the default."""
    if option.types == (bool,):
        return not option.default
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if option.default is None:
        return 1
    return option.default + 1 if int in option.types else (option.default * 0.5 if option.default else 0.1)


def test_there_are_options_without_effect():
    assert {case[0] for case in CASES} == set(
        "ewc forever gainlora lfpt5 lorareplay lwf migu moelora olora rkif sapt tasl vrmcl".split()
    )


def attach_or_add_lora(attach, learner):
    """Attach as a method does, or, where it leaves that to the core, as the core does."""
    if not attach(learner):
        add_lora(learner)


@pytest.mark.parametrize(("name", "option", "other", "without"), CASES)
def test_an_option_without_effect_changes_no_step(make_learner, toy_tasks, name, option, other, without):
    method, ends = METHODS[name], []
    common = {key: value for key, value in BASE.items() if key in method.options}
    for changed in ({}, {option: other_value(method.options[option])}):
        values = {**common, other: without, **changed}
        instance = method.factory(**values)  # past the check that refuses it
        torch.manual_seed(0)
        own = getattr(instance, "attach", None)
        attach = partial(attach_or_add_lora, own) if inspect.ismethod(own) else add_lora
        learner = make_learner(attach, stream_length=2)
        start = learner.weights.copy()
        for index, task in enumerate(toy_tasks):
            learner.begin_task(index, task)
            instance.learn_task(learner, task)
        ends.append(learner.weights.data - start)
    assert ends[0].any()
    assert torch.equal(*ends)
