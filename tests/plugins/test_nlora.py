"""N-LoRA: the numeric properties of its specification, with the real method."""

import pytest
import torch

from clbench.plugins.inclora import IncLoRA
from clbench.plugins.nlora import NLoRA, add_gradient, l1
from tests.plugins.test_olora import drawn, learn


def test_the_norm_by_hand():
    """BA = [[1, -2], [3, -6], [0, 0]] in one layer, which is not square; another adds up."""
    pair = (torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0], [3.0], [0.0]]))
    assert l1([pair]) == 12
    assert l1([pair, pair]) == 24
    assert l1([(-pair[0], pair[1])]) == 12
    assert l1([(pair[0], torch.zeros(3, 1))]) == 0


def test_the_gradient_is_that_of_the_norm():
    down, up = drawn((2, 5), 0).requires_grad_(), drawn((7, 2), 1).requires_grad_()
    (0.3 * l1([(down, up)])).backward()
    found = (torch.ones(2, 5), torch.ones(7, 2))
    add_gradient([(down.detach(), up.detach())], [found], 0.3)
    assert torch.allclose(found[0] - 1, down.grad, atol=1e-5)
    assert torch.allclose(found[1] - 1, up.grad, atol=1e-5)


def test_at_the_start_of_a_task_it_pulls_nowhere():
    found = (torch.zeros(2, 5), torch.zeros(7, 2))
    add_gradient([(drawn((2, 5), 0), torch.zeros(7, 2))], [found], 1.0)
    assert not found[0].any()
    assert not found[1].any()


def test_without_strength_it_is_inclora_bitwise_and_with_it_smaller(make_learner, toy_tasks):
    plain, _ = learn(make_learner, toy_tasks, IncLoRA())
    weights, past = plain.weights.copy(), plain.attached.blocks.past
    free, reports = learn(make_learner, toy_tasks, NLoRA(strength=0))
    assert torch.equal(free.weights.data, weights)
    assert all(torch.equal(free.attached.blocks.past[key], tensor) for key, tensor in past.items())
    _, held = learn(make_learner, toy_tasks, NLoRA(strength=0.1))
    for one, other in zip(held, reports, strict=True):
        assert 0 < one["l1"] < 0.8 * other["l1"]
        assert one["loss"] == pytest.approx(other["loss"], rel=0.5)
    strong, far = learn(make_learner, toy_tasks[:1], NLoRA(strength=1e6))
    assert far[0]["loss"] < 50  # the cross-entropy alone
    weak, _ = learn(make_learner, toy_tasks[:1], NLoRA(strength=0))
    assert float(strong.losses[0][0]) == float(weak.losses[0][0])  # before any pull


def test_layers_that_are_not_square_are_paired(make_learner):
    learner = make_learner(lambda one: one.attached.add_blocks({}), lora_targets="all-linear")
    blocks, weights = learner.attached.blocks, learner.weights
    weights.assign(drawn(len(weights), 0))
    for layer, (down, up) in zip(blocks.layers.values(), blocks.pairs(weights, weights.data), strict=True):
        assert torch.equal(down, layer.lora_A["default"].weight)
        assert torch.equal(up, layer.lora_B["default"].weight)
    assert blocks.past_pairs() == []
    old = [(down.clone(), up.clone()) for down, up in blocks.pairs(weights, weights.data)]
    blocks.freeze(weights, torch.Generator().manual_seed(0))
    for pair, frozen in zip(old, blocks.past_pairs(), strict=True):
        assert torch.equal(pair[0], frozen[0])
        assert torch.equal(pair[1], frozen[1])
