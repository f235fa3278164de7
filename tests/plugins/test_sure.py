"""SuRe: which rows surprise, what the slow weights are, and which weights answer."""

import pytest
import torch

from clbench.plugins.seqlora import SeqLoRA
from clbench.plugins.sure import SuRe, most_surprising


def learned(learner, tasks, method):
    reports = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return reports


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (9, [0, 1, 2, 3])])
def test_the_highest_losses_in_the_order_of_the_rows(count, expected):
    assert most_surprising(torch.tensor([0.5, 2.0, 0.5, 3.0]), count) == expected


def test_the_loss_of_each_row_is_that_of_a_batch_of_its_own(make_learner, toy_tasks):
    learner = make_learner()
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 5)
    rows = toy_tasks[1].train[:11]  # in two batches, by length
    found = learner.passes.losses(rows)
    alone = [learner.loss(learner.feed.batch([row])).item() for row in rows]  # without dropout from here on
    assert found.tolist() == pytest.approx(alone, rel=1e-4)
    assert found.std() > 0


@pytest.mark.parametrize("measured", ["before", "after"])
def test_the_memory_holds_the_rows_that_surprise(make_learner, toy_tasks, measured):
    learner, method = make_learner(), SuRe(memory_ratio=0.25, measured=measured, smoothing=0.5)
    before = learner.passes.losses(toy_tasks[0].train)
    learned(learner, toy_tasks[:1], method)
    losses = before if measured == "before" else learner.passes.losses(toy_tasks[0].train)
    kept = method.memory.of_task[toy_tasks[0].name]
    assert [toy_tasks[0].train.index(row) for row in kept] == most_surprising(losses, 6)


def test_the_slow_weights_by_hand():
    method, slow = SuRe(smoothing=0.75), torch.tensor([0.0])
    for fast, expected in ((4.0, 1.0), (4.0, 1.75), (0.75, 1.5)):
        method.follow(slow, torch.tensor([fast]))
        assert slow.item() == expected


def test_the_slow_weights_answer_and_the_fast_ones_go_on(make_learner, toy_tasks):
    plain = make_learner()
    learned(plain, toy_tasks[:1], SeqLoRA())
    fast = plain.weights.copy()
    learner, method = make_learner(), SuRe(memory_ratio=0.25, smoothing=0.9)
    start = learner.weights.copy()
    learned(learner, toy_tasks[:1], method)
    assert torch.equal(method.fast, fast)
    slow = learner.weights.copy()
    assert 0 < float((slow - start).norm()) < float((fast - start).norm())
    learner.begin_task(1, toy_tasks[1])
    seen = []
    learner.loss = lambda batch, whole=learner.loss: seen.append(learner.weights.copy()) or whole(batch)
    method.learn_task(learner, toy_tasks[1])
    assert torch.equal(seen[0], fast)
    assert not torch.equal(learner.weights.data, method.fast)


def test_without_smoothing_and_memory_it_is_seqlora_bitwise(make_learner, toy_tasks):
    ends, reports = [], []
    for method in (SuRe(smoothing=0.0, memory_ratio=0.001), SeqLoRA()):
        learner = make_learner()
        reports.append(learned(learner, toy_tasks, method))
        ends.append(learner.weights.copy())
    assert torch.equal(*ends)
    assert [report["remembered"] for report in reports[0]] == [0, 0]


@pytest.mark.parametrize(("every", "replays"), [(1, 6), (2, 3), (4, 1)])
def test_replay_follows_every_so_many_steps(make_learner, toy_tasks, every, replays):
    learner = make_learner(epochs=2)
    learned(learner, toy_tasks, SuRe(memory_ratio=0.25, replay_every=every))
    assert learner.cost.replayed_rows == 6 * replays
