"""LwF: the numeric properties of its specification, with the real method."""

import math

import pytest
import torch
from torch.nn import functional

from clbench.encoding.batches import Batch
from clbench.plugins.lwf import LwF, divergence
from clbench.plugins.seqlora import SeqLoRA
from tests.model.test_lora_blocks import one_batch


def learn(make_learner, tasks, method, **settings):
    learner, reports = make_learner(**settings), []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return learner.weights.copy(), reports


def test_the_divergence_by_hand():
    """p = (4/5, 1/5) and q = (1/2, 1/2); at temperature 2 the first is (2/3, 1/3)."""
    old, new = torch.tensor([[math.log(4), 0.0]]), torch.zeros(1, 2)
    assert divergence(old, new, 1.0).item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)
    softened = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert divergence(old, new, 2.0).item() == pytest.approx(softened, abs=1e-6)
    both = divergence(torch.cat([old, old]), torch.cat([new, old]), 2.0)
    assert both.item() == pytest.approx(softened / 2, abs=1e-6)  # a mean over tokens


def test_its_gradient_is_that_of_the_papers_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(5, 7, generator=generator) for _ in range(2))
    first, second = new.clone().requires_grad_(), new.clone().requires_grad_()
    divergence(old, first, 2.0).backward()
    functional.cross_entropy(second / 2, (old / 2).softmax(-1)).backward()
    assert torch.allclose(first.grad, second.grad, atol=1e-6)


def test_at_the_start_of_a_task_it_is_0_and_pulls_nowhere(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    batch = one_batch(learner, toy_tasks[0])
    loss, distance = LwF().losses(learner, batch, learner.weights.copy())
    assert distance.item() == pytest.approx(0, abs=1e-6)
    assert loss.item() == pytest.approx(learner.loss(batch).item(), abs=1e-6)
    learner.weights.zero_grad()
    learner.passes.backward(distance)
    assert learner.weights.grad.abs().max() < 1e-6


def test_padding_does_not_count_and_the_old_model_has_no_dropout(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    old = learner.weights.copy()
    learner.weights.data.add_(torch.randn(len(old), generator=torch.Generator().manual_seed(0)) / 10)
    batch = one_batch(learner, toy_tasks[0])
    wide = Batch(batch.input_ids, batch.attention_mask, functional.pad(batch.labels, (0, 5), value=-100))
    found = []
    for one in (batch, wide):
        found.append([value.item() for value in LwF().losses(learner, one, old)])
        assert learner.model.training
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    seen = []
    inner = learner.passes.logits
    learner.passes.logits = lambda *given: seen.append(learner.model.training) or inner(*given)
    LwF().losses(learner, batch, old)
    assert seen == [False, True]


def test_without_strength_and_on_the_first_task_it_is_seqlora_bitwise(make_learner, toy_tasks):
    plain, _ = learn(make_learner, toy_tasks, SeqLoRA())
    assert torch.equal(learn(make_learner, toy_tasks, LwF(strength=0))[0], plain)
    first, _ = learn(make_learner, toy_tasks[:1], SeqLoRA())
    assert torch.equal(learn(make_learner, toy_tasks[:1], LwF())[0], first)


def test_the_stronger_the_nearer_to_the_old_answers(make_learner, toy_tasks):
    reports = {
        strength: learn(make_learner, toy_tasks, LwF(strength=strength), epochs=3)[1][1] for strength in (0.01, 10.0)
    }
    assert reports[10.0]["distillation"] < 0.7 * reports[0.01]["distillation"]
