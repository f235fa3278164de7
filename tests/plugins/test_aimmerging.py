"""AIMMerging: the controller and the merge by hand."""

import itertools

import pytest
import torch

from clbench.plugins.aimmerging import AIMMerging, Controller
from clbench.plugins.seqlora import SeqLoRA


def controller(interval=8, **changes):
    return Controller(**{"interval": interval, "least": 2, "most": 128, "cold_start": 0, "factor": 2.0, **changes})


def merge_step(losses, interval=8):
    """Return after which step the first merge comes, and how many alarms there were."""
    one = controller(interval)
    for step, loss in enumerate(losses, start=1):
        if one.observe(loss):
            return step, one.alarms
    return None, one.alarms


CALM, ALARM = 1.0, 2.0  # the standard is 1, from the first 6 steps of 8
FIRST = [CALM] * 6


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([*FIRST, CALM, ALARM], (8, 1)),  # at the planned step
        ([*FIRST, ALARM, CALM], (8, 1)),  # an alarm before it waits for it
        ([*FIRST, ALARM, ALARM], (8, 2)),
        ([*FIRST, CALM, CALM, CALM, ALARM], (10, 1)),  # later, with the first alarm
        ([*FIRST, *[CALM] * 10], (16, 1)),  # in any case after two intervals
        ([*FIRST, *[CALM] * 9], (None, 0)),
        ([9.0, *[CALM] * 5, *[ALARM] * 3], (None, 0)),  # the standard is 14 / 6: no alarm below 4.67
        ([*FIRST, 1.99, 1.99], (None, 0)),
    ],
)
def test_when_a_merge_comes(losses, expected):
    assert merge_step(losses) == expected


def test_three_alarms_bring_it_forward():
    assert merge_step([CALM] * 21 + [ALARM] * 3, interval=30) == (24, 3)
    assert merge_step([CALM] * 21 + [ALARM, CALM, ALARM], interval=30) == (None, 2)


@pytest.mark.parametrize(
    ("interval", "alarms", "expected"),
    [(8, 2, (0.5, 0.5)), (71, 2, (0.4, 0.6)), (70, 1, (0.6, 0.4)), (71, 1, (0.5, 0.5))],
)
def test_the_weights_of_a_merge(interval, alarms, expected):
    one = controller(interval, alarms=alarms)
    assert one.shares == expected
    assert sum(one.shares) == 1


@pytest.mark.parametrize(
    ("interval", "last", "now", "expected"),
    [
        (8, 1.0, 2.0, 4),
        (8, 1.0, 1.0, 8),
        (100, 1.0, 1.25, 40),  # 80, of 64 or more the half
        (100, 1.0, 2.0, 50),
        (8, 1.0, 100.0, 2),
        (8, 2.0, 1.0, 24),  # 8 * (2 + 1)
        (64, 2.0, 1.6, 112),  # 64 * (1.25 + 0.5)
        (64, 9.0, 1.0, 128),
    ],
)
def test_the_next_interval(interval, last, now, expected):
    one = controller(interval, learning=last, merges=1)
    one.merged(now * interval)
    assert one.interval == expected
    assert one.learning == pytest.approx(now)


def test_the_interval_stays_within_its_bounds_and_a_cold_start_leaves_it():
    one = controller(cold_start=4)
    seen = []
    numbers = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    for number in numbers:
        one.merged(number**4 * one.interval)
        seen.append(one.interval)
    assert seen[:4] == [8] * 4
    assert seen[4] != 8
    assert (min(seen), max(seen)) == (2, 128)
    still = controller()
    for _ in range(3):
        still.merged(0.0)
    assert still.interval == 8


class Replay:
    """Stands for the phase of the memory: each step moves all weights by one."""

    def __init__(self, weights):
        self.weights, self.steps = weights, 0

    def take(self, steps):
        yield from range(steps)

    def step(self, loss):
        self.steps += 1
        self.weights.data.add_(1.0)


@pytest.mark.parametrize(("alarms", "share"), [(2, 0.5), (1, 0.6)])
@pytest.mark.parametrize(("ratio", "steps"), [(1.0, 8), (0.5, 4), (0.01, 1)])
def test_a_merge_by_hand(make_learner, alarms, share, ratio, steps):
    learner, method = make_learner(), AIMMerging(outer_ratio=ratio)
    learner.loss = lambda batch: None
    replay, start, one = Replay(learner.weights), learner.weights.copy(), controller(alarms=alarms)
    learner.weights.data.add_(8.0)
    method.merge(learner, replay, start, one)
    assert replay.steps == steps
    assert torch.allclose(learner.weights.data - start, torch.tensor(share * 8 + (1 - share) * steps), atol=1e-5)
    assert one.learning == pytest.approx(8 * len(start) / 8, rel=1e-5)
    assert (one.steps, one.alarms, one.merges) == (0, 0, 1)


def test_two_equal_task_vectors_are_added_once(make_learner):
    learner = make_learner()
    learner.loss = lambda batch: None
    start = learner.weights.copy()
    learner.weights.data.add_(8.0)
    AIMMerging().merge(learner, Replay(learner.weights), start, controller(alarms=1))
    assert torch.allclose(learner.weights.data - start, torch.tensor(8.0), atol=1e-5)


def test_an_interval_out_of_its_bounds_is_refused():
    with pytest.raises(ValueError, match="must lie between"):
        AIMMerging(interval=200)


def learned(learner, tasks, method):
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        report = method.learn_task(learner, task)
    return report


def test_the_first_task_is_plain_training(make_learner, toy_tasks):
    ends = []
    for method in (AIMMerging(), SeqLoRA()):
        learner = make_learner()
        learned(learner, toy_tasks[:1], method)
        ends.append(learner.weights.copy())
    assert torch.equal(*ends)


def test_a_run_merges_as_often_as_the_signals_say(make_learner, toy_tasks, monkeypatch):
    """An alarm in every third step, and steps left over at the end."""
    losses = itertools.cycle([1.0, 1.0, 5.0])
    monkeypatch.setattr(AIMMerging, "loss_of", lambda self, learner, group: next(losses))
    learner = make_learner(epochs=3, micro_batch=3)
    report = learned(learner, toy_tasks, AIMMerging(interval=2, outer_ratio=1.0, memory_ratio=0.25))
    assert report["steps"] == 9
    assert report["merges"] == 3
    assert torch.isfinite(learner.weights.data).all()


def test_the_memory_is_looked_at_without_a_gradient(make_learner, toy_tasks):
    found = []
    for size in (None, 3):
        learner = make_learner(lora_dropout=0.0, micro_batch=size)
        group = next(learner.feed.draws(toy_tasks[0].train, learner.generator("a")))
        found.append(AIMMerging().loss_of(learner, group))
        assert learner.cost.backward_batches == 0
        assert not learner.weights.grad.any()
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] > 0
