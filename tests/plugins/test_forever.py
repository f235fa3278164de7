"""FOREVER: the clock and the pull by hand, and what a run does by them."""

from itertools import islice

import pytest
import torch

from clbench.plugins.forever import FOREVER, Clock, days
from clbench.plugins.seqlora import SeqLoRA


def due_steps(ways, day=24):
    clock = Clock(day, 0.95)
    return [step for step, way in enumerate(ways, start=1) if clock.tick(way)]


def test_the_days_of_replays():
    assert list(islice(days(), 9)) == [1, 2, 4, 7, 15, 30, 60, 120, 240]


def test_at_constant_speed_a_day_is_its_steps():
    assert due_steps([1.0] * 800) == [24 * day for day in (1, 2, 4, 7, 15, 30)]


@pytest.mark.parametrize("factor", [1e-6, 2.0, 2.0**20])
def test_the_scale_of_the_steps_changes_no_replay(factor):
    ways = (torch.rand(500, generator=torch.Generator().manual_seed(0)) + 0.1).double().tolist()
    assert due_steps([factor * way for way in ways], 10) == due_steps(ways, 10)
    assert len(due_steps(ways, 10)) == 6


@pytest.mark.parametrize("way", [float("inf"), float("nan")])
def test_a_way_that_is_not_finite_is_no_day(way):
    clock = Clock(2, 0.5)
    assert [clock.tick(step) for step in (1.0, 1.0, way, 1.0)] == [False, True, False, False]
    assert clock.replays == 1


def test_slow_steps_put_replays_off_and_a_leap_takes_several_days_at_once():
    assert due_steps([1.0] * 4 + [0.5] * 8, day=4) == [4, 12]
    clock = Clock(2, 0.5)
    assert [clock.tick(way) for way in (1.0, 1.0, 10.0, 1.0, 1.0)] == [False, True, True, False, True]
    assert (clock.passed, clock.replays) == (4, 3)  # at 1 day, at 2 and 4 in one step, at 7
    assert clock.way / clock.day == 7


def test_weights_that_stand_still_have_no_days():
    assert due_steps([0.0] * 100, 10) == []


def test_the_speed_is_smoothed_from_that_of_the_first_day():
    clock = Clock(2, 0.5)
    seen = []
    for way in (1.0, 3.0, 6.0, 1.0):
        clock.tick(way)
        seen.append(clock.speed)
    assert seen == [0.0, 2.0, 4.0, 2.5]
    assert clock.haste == 1.25


@pytest.mark.parametrize(
    ("haste", "sensitivity", "expected"),
    [(1, 1, 1e-3), (5, 1, 3e-3), (0.2, 1, 5e-4), (2, 1, 2e-3), (2, 0.5, 1.5e-3), (9, 0, 1e-3)],
)
def test_the_pull_by_hand(haste, sensitivity, expected):
    assert FOREVER(sensitivity=sensitivity).pull(haste) == pytest.approx(expected)


class Phase:
    """Stands for the phase of replay: keeps the gradients that a step is taken with."""

    due = True

    def __init__(self, learner):
        self.learner, self.taken = learner, []

    def take(self, steps):
        yield from range(steps)

    def backward(self, loss):
        self.learner.weights.grad.fill_(1.0)

    def apply(self):
        self.taken.append(self.learner.weights.grad.clone())


def test_a_replay_pulls_towards_the_weights_that_the_task_began_with(make_learner, toy_tasks):
    learner, method = make_learner(batch_size=4), FOREVER()
    method.memory.of_task["old"] = toy_tasks[0].train[:9]
    learner.loss = lambda batch: None
    phase, before = Phase(learner), learner.weights.copy()
    learner.weights.data.add_(0.25)
    method.take_replay_steps(learner, phase, before, 2.0)
    assert len(phase.taken) == 3  # 9 rows in fours
    for gradient in phase.taken:
        assert torch.allclose(gradient, torch.tensor(1 + 2 * 2.0 * 0.25))


def learned(learner, tasks, method):
    reports = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return reports


def test_the_first_task_keeps_time_and_replays_nothing(make_learner, toy_tasks):
    ends = []
    for method in (FOREVER(day=1, memory_ratio=0.25), SeqLoRA()):
        learner = make_learner(epochs=2, warmup_steps=0)
        (report,) = learned(learner, toy_tasks[:1], method)
        ends.append(learner.weights.copy())
        if isinstance(method, FOREVER):
            assert report["replays"] == 0
            assert report["days"] > 1
    assert torch.equal(*ends)


def test_replays_take_steps_on_the_memory(make_learner, toy_tasks):
    learner = make_learner(epochs=2, warmup_steps=0)
    _, report = learned(learner, toy_tasks, FOREVER(day=1, replay_steps=2, memory_ratio=0.25))
    assert report["steps"] == 6
    assert 1 <= report["replays"] <= 5
    assert learner.cost.replayed_rows == 2 * 6 * report["replays"]  # no step went past two days of replay at once
