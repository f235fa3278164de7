"""A phase of training: what it reports, whom it tells, and what runs alongside."""

import pytest
import torch

from clbench.learning.training import Workbench, begin_training


@pytest.fixture
def begin(toy_tasks):
    """A function that begins a phase over seven rows; the steps that are told of are in the second value."""

    def make(learner):
        told = []
        bench = Workbench(
            learner.passes,
            learner.feed,
            learner.settings,
            learner.generator,
            lambda *of: told.append(of),
            learner.bookmarks,
        )
        return begin_training(bench, toy_tasks[0].train[:7], "adamw", None), told

    return make


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_is_told_with_the_loss_of_all_its_rows_and_their_mean_is_reported(make_learner, begin, micro_batch):
    learner = make_learner(batch_size=4, micro_batch=micro_batch, epochs=2)
    training, told = begin(learner)
    assert training.stats == {"steps": 0, "loss": 0.0}
    losses = [0.0] * 4
    for batch in training:
        loss = learner.loss(batch)
        losses[training.taken] += loss.item() * batch.share
        if training.step(loss):
            assert training.stats["loss"] == pytest.approx(sum(losses) / training.taken)
    assert [(step, steps) for step, steps, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [float(loss) for *_, loss in told] == pytest.approx(losses)
    assert training.stats == {"steps": 4, "loss": pytest.approx(sum(losses) / 4)}


def test_a_phase_alongside_has_no_end_and_tells_nobody(make_learner, begin, toy_tasks):
    learner = make_learner(batch_size=4)
    training, told = begin(learner)
    replay = training.alongside(toy_tasks[1].train[:3])
    assert (replay.steps, list(replay)) == (0, [])
    for batch in replay.take(2):
        replay.step(learner.loss(batch))
    assert (replay.taken, training.taken, told) == (2, 0, [])
    assert replay.stats["loss"] > 0


def test_a_loss_that_no_batch_of_the_phase_came_before_counts_whole(make_learner, begin, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    training, _ = begin(learner)
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    training.backward(learner.loss(batch))
    found = learner.weights.grad.clone()
    learner.weights.zero_grad()
    learner.passes.backward(learner.loss(batch))
    assert torch.equal(found, learner.weights.grad)
    assert found.abs().max() > 0
