"""SD-LoRA: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch

from clbench.plugins.sdlora import START, Magnitudes, SDLoRA
from clbench.running.checkpoints import restore_state, state_of
from tests.model.test_lora_blocks import logits, one_batch
from tests.plugins.test_olora import drawn, learn


def filled(make_learner, tasks=3):
    """A learner of so many tasks whose trainable block has random values, and its method."""
    method = SDLoRA()
    learner = make_learner(method.attach, stream_length=tasks, lora_targets="all-linear")
    for down, up in learner.attached.blocks.pairs(learner.weights, learner.weights.data):
        down.copy_(drawn(down.shape, 0) / 5)
        up.copy_(drawn(up.shape, 1) / 5)
    return learner, method


def test_a_new_block_leaves_the_function_and_frozen_directions_have_norm_1(make_learner, toy_tasks):
    learner, method = filled(make_learner)
    batch, magnitudes = one_batch(learner, toy_tasks[0]), learner.attached.part(Magnitudes)
    norms = [
        down.norm() * up.norm() for down, up in learner.attached.blocks.pairs(learner.weights, learner.weights.data)
    ]
    before = logits(learner, batch)
    method.start_block(learner)
    assert torch.allclose(logits(learner, batch), before, atol=1e-4)
    assert magnitudes.count == 2
    for down, up in learner.attached.blocks.past_pairs():
        assert down.norm().item() == pytest.approx(1, abs=1e-5)
        assert up.norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(magnitudes.values[:, 0], START * torch.stack(norms), rtol=1e-5)
    assert (magnitudes.values[:, 1] == START).all()
    method.start_block(learner)  # the second block has never learned: B = 0
    assert torch.allclose(logits(learner, batch), before, atol=1e-4)
    assert (magnitudes.values[:, 1] == 0).all()


def test_a_layer_by_hand(make_learner):
    learner, method = filled(make_learner)
    method.start_block(learner)
    for _, up in learner.attached.blocks.pairs(learner.weights, learner.weights.data):
        up.copy_(drawn(up.shape, 2) / 5)
    values = learner.attached.part(Magnitudes).values.data
    scaling = learner.settings.lora_alpha / learner.settings.lora_rank
    pairs = learner.attached.blocks.pairs(learner.weights, learner.weights.data)
    past = learner.attached.blocks.past_pairs()
    for number, layer in enumerate(learner.attached.blocks.layers.values()):
        layer.eval()
        x = drawn((2, 3, layer.in_features), 3)
        (down, up), (old_down, old_up) = pairs[number], past[number]
        change = values[number, 0] * (x @ old_down.T @ old_up.T) + values[number, 1] * (x @ down.T @ up.T)
        assert torch.allclose(layer(x), layer.base_layer(x) + scaling * change, atol=1e-4)


def test_old_magnitudes_learn_old_directions_do_not(make_learner, toy_tasks):
    learner, method = filled(make_learner)
    method.start_block(learner)
    learner.weights.zero_grad()
    learner.passes.backward(learner.loss(one_batch(learner, toy_tasks[0])))
    gradient = learner.weights.views(learner.weights.grad)["magnitudes.values"]
    assert (gradient[:, 0] != 0).all()
    assert not gradient[:, 1:].any()  # the new B is 0, and the third block is not there
    past = {name: tensor.clone() for name, tensor in method.past.items()}
    before = learner.attached.part(Magnitudes).values.detach().clone()
    training = learner.training(toy_tasks[0].train)
    for batch in training:
        training.step(learner.loss(batch))
    after = learner.attached.part(Magnitudes).values.detach()
    assert (after[:, :2] != before[:, :2]).all()
    assert torch.equal(after[:, 2], before[:, 2])
    assert all(torch.equal(method.past[name], tensor) for name, tensor in past.items())


def test_a_learner_restored_from_state_and_files_answers_alike(make_learner, toy_tasks, tmp_path):
    tasks = [*toy_tasks, replace(toy_tasks[0], name="third")]
    learner, reports = learn(make_learner, tasks, method := SDLoRA(), stream_length=3)
    assert reports[2]["oldest_magnitude"] != reports[1]["oldest_magnitude"]
    batch = one_batch(learner, toy_tasks[1])
    expected = logits(learner, batch)
    learner.attached.save(tmp_path)
    again = SDLoRA()
    restore_state(again, state_of(method))
    loaded = make_learner(again.attach, stream_length=3, seed=5)
    assert not torch.equal(logits(loaded, batch), expected)
    loaded.attached.load(tmp_path)
    assert torch.equal(logits(loaded, batch), expected)
