"""A method that changes the frozen backbone harms no other run, and its record says so."""

import pytest
import torch

from clbench.checking.battery import check_method
from clbench.discovery import find_plugins
from clbench.model.backbone import load_backbone
from clbench.model.frozen import Frozen
from clbench.records.files import read_record
from tests.conftest import TINY_LLAMA

VANDAL = """
from clbench import hookimpl
from clbench.plugins.seqlora import SeqLoRA

class Vandal(SeqLoRA):
    @hookimpl
    def learn_task(self, learner, task):
        learner.model.lm_head.weight.data.mul_(0.5)   # no version counter notices
        return super().learn_task(learner, task)

class Leftover(SeqLoRA):
    @hookimpl
    def learn_task(self, learner, task):
        learner.model.lm_head.register_forward_hook(lambda *_: None)
        return super().learn_task(learner, task)

@hookimpl
def methods():
    return {"vandal": Vandal, "leftover": Leftover}
"""


def test_the_next_run_has_a_backbone_of_its_own(clbench, tiny_run, tmp_path):
    (tmp_path / "vandal.py").write_text(VANDAL)
    words = [*tiny_run, "--method", "vandal", "--plugin", "vandal.py", "--stream", "sst-2,agnews", "--results"]
    both = clbench(*words, "both", "--seeds", "2")
    assert both.exit_code == 0, both.output
    assert " ".join(both.output.split()).count("changed its frozen backbone (shared.weight): it is loaded anew") == 1
    assert clbench(*words, "alone", "--seeds", "2,").exit_code == 0
    (alone,) = tmp_path.glob("alone/*_s2_*[0-9a-f].json")
    record = read_record(tmp_path / "both" / alone.name)
    assert record.learned == read_record(alone).learned
    assert record.notes == (
        "the method changed the frozen backbone (shared.weight); a resumed run would not have these changes",
    )


def test_a_decoder_stays_loaded_for_the_next_run(clbench, llama_folder):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY_LLAMA.items()]
    words = ["run", "--method", "seqlora", "--backbone", llama_folder, "--stream", "sst-2", *flags]
    both = clbench(*words, "--seeds", "2", "--limit-train", "8", "--limit-test", "4")
    assert both.exit_code == 0, both.output
    assert "frozen backbone" not in both.output


@pytest.mark.parametrize(("name", "place"), [("vandal", "shared.weight"), ("leftover", "lm_head")])
def test_the_battery_refuses_such_a_method(name, place, tiny_folder, tmp_path):
    (tmp_path / "vandal.py").write_text(VANDAL)
    plugins = find_plugins([tmp_path / "vandal.py"])
    findings = check_method(plugins, plugins.method(name), {}, load_backbone(str(tiny_folder), "cpu"))
    assert [finding.fault for finding in findings] == [f"leaves the frozen backbone changed: {place}"]


def test_every_kind_of_change_is_seen():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).requires_grad_(False)
    weight = model[0].weight
    weight.data = torch.arange(6.0).view(2, 3)
    frozen = Frozen.of(model)
    assert not frozen.changed()
    assert not frozen.replaced(model)
    for change in (lambda w: w[[1, 0]], lambda w: w[:, [1, 0, 2]], lambda w: -w, lambda w: w.bfloat16().float() + 1e-6):
        before = weight.data.clone()
        weight.data.copy_(change(before))
        assert frozen.changed() == ["0.weight"]
        weight.data.copy_(before)
        assert not frozen.changed()
    model[1].running_mean += 1
    assert frozen.changed() == ["1.running_mean"]
    model[0].weight = torch.nn.Parameter(weight.data, requires_grad=False)
    assert frozen.replaced(model) == ["0.weight"]
    model[0].weight = weight.requires_grad_(True)
    assert frozen.replaced(model) == ["0"]
