"""Learner and Training: accumulation, schedule, clipping, merged evaluation."""

from dataclasses import replace

import pytest
import torch

from clbench.encoding.batches import accumulation_group
from clbench.learning.learner import Learner
from clbench.learning.training import warmup_steps
from clbench.model.backbone import merged
from clbench.settings import Settings
from tests.conftest import TINY


def encoded_batch(learner, examples, micro_batch=None):
    return accumulation_group(learner.feed.encoder.encode(examples), micro_batch, 0, learner.device)


def test_accumulated_gradient_equals_the_whole_batch(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    examples = toy_tasks[0].train[:7]
    gradients = []
    for size in (None, 3):
        training = learner.training(examples)
        training._groups = iter([encoded_batch(learner, examples, size)])
        for batch in training:
            training.backward(learner.loss(batch))
        assert training.due
        gradients.append(learner.weights.grad.clone())
        learner.weights.zero_grad()
    assert gradients[0].abs().max() > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


def test_micro_batches_take_the_same_steps(make_learner, toy_tasks):
    ends = []
    for size in (None, 2):
        learner = make_learner(lora_dropout=0.0, micro_batch=size)
        training = learner.training(toy_tasks[0].train)
        for batch in training:
            training.step(learner.loss(batch))
        assert training.taken == training.steps == 3
        ends.append(learner.weights.copy())
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


def test_schedule_warms_up_from_zero_and_ends_at_zero(make_learner, toy_tasks):
    learner = make_learner(epochs=10, warmup_steps=2)
    training = learner.training(toy_tasks[0].train)
    assert training.steps == 30
    assert not training.optimizer.state
    rates, start = [], learner.weights.copy()
    for batch in training:
        rates.append(training.learning_rate)
        training.step(learner.loss(batch))
        if training.taken == 1:
            assert torch.equal(learner.weights.data, start)  # the first step has learning rate 0
    assert rates[:4] == pytest.approx([0, 0.005, 0.01, 0.01 * 27 / 28])
    assert training.learning_rate == 0
    assert int(training.optimizer.state[learner.weights.vector]["step"]) == 30
    assert not learner.training(toy_tasks[0].train).optimizer.state  # a new phase has no history


def test_warm_up_is_at_most_a_tenth(make_learner, toy_tasks):
    learner = make_learner(epochs=10, warmup_steps=50)
    training = learner.training(toy_tasks[0].train)
    rates = []
    for batch in training:
        rates.append(training.learning_rate)
        training.step(learner.loss(batch))
    assert rates.index(max(rates)) == 3


@pytest.mark.parametrize(("part", "most"), [(None, 50), (0.1, 15), (0.5, 50), (1, 50)])
def test_warm_up_takes_the_part_of_the_steps_that_is_allowed(part, most):
    settings = Settings(warmup_part=part)
    assert warmup_steps(settings, 150) == most
    assert warmup_steps(Settings(warmup_part=None), 40) == 50  # CB on LLaMA: the peak is never reached
    assert all(warmup_steps(Settings(), steps) == min(50, steps // 10) for steps in range(1, 2000))


def test_batching_and_the_least_batch_are_settings_of_a_phase(make_learner, toy_tasks):
    rows = toy_tasks[0].train[:13]
    learner = make_learner(batching="shuffled", least_batch=6, epochs=2, batch_size=8)
    training = learner.training(rows)
    taken = [batch.rows for batch in training]
    order = torch.randperm(13, generator=learner.generator("shuffle")).tolist()
    assert training.steps == len(taken) == 2
    assert list(taken[0]) == order[:8]


def test_gradient_is_clipped_to_the_norm(make_learner, toy_tasks):
    learner = make_learner(clip_norm=0.001)
    training, clipped = learner.training(toy_tasks[0].train), 0
    for batch in training:
        clipped += 1
        training.backward(learner.loss(batch) * 100)
        before = learner.weights.grad.clone()
        training.apply()
        assert before.norm() > 0.001
        assert learner.weights.grad.norm().item() == pytest.approx(0.001, rel=1e-3)
        assert torch.allclose(learner.weights.grad / 0.001, before / before.norm(), atol=1e-4)
    assert clipped == 3


@pytest.mark.parametrize("clip_norm", [0.0, 1e3])
def test_a_gradient_within_the_norm_keeps_its_length(make_learner, toy_tasks, clip_norm):
    learner = make_learner(clip_norm=clip_norm)
    training = learner.training(toy_tasks[0].train)
    batch = next(iter(training))
    training.backward(learner.loss(batch))
    before = learner.weights.grad.clone()
    assert 0 < before.norm() < 1e3
    training.apply()
    assert torch.equal(learner.weights.grad, before)


def test_a_gradient_is_not_clipped_where_the_method_says_so(make_learner, toy_tasks):
    learner = make_learner(clip_norm=1e-3)
    training = learner.training(toy_tasks[0].train)
    batch = next(iter(training))
    training.backward(learner.loss(batch))
    before = learner.weights.grad.clone()
    training.apply(clip=False)
    assert torch.equal(learner.weights.grad, before)
    assert before.norm() > 1e-3


def test_only_the_adapter_learns_and_merging_restores_the_very_same_tensors(make_learner, toy_tasks):
    learner = make_learner()
    frozen = {name: (p, p.clone()) for name, p in learner.model.named_parameters() if not p.requires_grad}
    training = learner.training(toy_tasks[0].train)
    for batch in training:
        training.step(learner.loss(batch))
    weights = learner.weights.copy()
    learner.answer(toy_tasks[0].test)
    assert torch.equal(weights, learner.weights.data)
    for name, parameter in learner.model.named_parameters():
        if name in frozen:
            assert parameter is frozen[name][0]
            assert torch.equal(parameter, frozen[name][1])


def test_merged_weights_compute_what_the_adapter_computes(make_learner, toy_tasks):
    learner = make_learner()
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)))
    (batch,) = encoded_batch(learner, toy_tasks[0].test)
    learner.model.eval()
    with torch.no_grad():
        apart = learner.loss(batch)
        with merged(learner.model):
            together = learner.loss(batch)
        again = learner.loss(batch)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    assert torch.equal(apart, again)


def test_a_learner_leaves_the_backbone_as_it_was(backbone, toy_tasks):
    names = [name for name, _ in backbone.model.named_parameters()]
    ends = []
    for _ in range(2):
        learner = Learner(backbone, Settings(**TINY, epochs=1))
        learner.attached.add_lora()
        learner.begin_task(0)
        training = learner.training(toy_tasks[0].train)
        for batch in training:
            training.step(learner.loss(batch))
        ends.append(learner.weights.copy())
        learner.attached.detach()
        assert [name for name, _ in backbone.model.named_parameters()] == names
    assert torch.equal(*ends)


def test_alongside_shares_or_owns_the_moments(make_learner, toy_tasks):
    for optimizer, steps in (("shared", 2 + 3), ("own", 2)):
        learner = make_learner()
        training = learner.training(toy_tasks[0].train)
        replay = training.alongside(toy_tasks[1].train, optimizer)
        for batch in training.take(2):
            training.step(learner.loss(batch))
        rate = training.learning_rate
        for batch in replay.take(3):
            assert batch.input_ids.shape[0] == 8
            replay.step(learner.loss(batch))
        assert replay.learning_rate == rate == training.learning_rate
        assert int(training.optimizer.state[learner.weights.vector]["step"]) == steps


def test_no_examples_is_an_error(make_learner):
    with pytest.raises(ValueError, match="no examples"):
        make_learner().training([])


def test_the_loss_of_the_labelled_positions_is_the_models_own(make_learner, toy_tasks):
    learner = make_learner(max_target=8)
    batch = learner.feed.batch(toy_tasks[1].train[:5])
    assert len(batch.labelled) < batch.labels.numel(), "targets of different lengths"
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
    learner.weights.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    learner.model.eval()
    theirs, ours = learner.model(**inputs).loss, learner.loss(batch)
    torch.testing.assert_close(ours, theirs)
    expected = torch.autograd.grad(theirs, [p for p in learner.model.parameters() if p.requires_grad])
    learner.weights.zero_grad()
    learner.passes.backward(ours)
    torch.testing.assert_close(learner.weights.grad, torch.cat([part.flatten() for part in expected]))
    unknown = replace(batch)
    torch.testing.assert_close(learner.loss(unknown), theirs)
