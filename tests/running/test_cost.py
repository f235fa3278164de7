"""The cost meter: what a record counts."""

import time
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import torch

from clbench.data.streams import find_stream
from clbench.data.tasks import Example
from clbench.discovery import Method, find_plugins
from clbench.hookspecs import hookimpl
from clbench.learning.replay_memory import Memory
from clbench.learning.stopwatch import Stopwatch
from clbench.records.record import encode_record
from clbench.records.summary import cost_text
from clbench.running.cost import bytes_of
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import TINY

EXAMPLE_PLUGINS = find_plugins()
STREAM = find_stream("sst-2,agnews")


@pytest.fixture
def costs_of(backbone, toy_tasks, tmp_path):
    """A function that runs a method on two tasks of 24 rows, 2 epochs of 3 steps each; returns the record."""

    def run(name, **given):
        method = EXAMPLE_PLUGINS.method(name)
        settings = Settings(backbone=backbone.name, stream=STREAM.name, epochs=2, **TINY)
        options = method.resolve_options({key: str(value) for key, value in given.items()})
        opened = RunOpener(EXAMPLE_PLUGINS, tmp_path).open(RunSpec(name, options, settings))
        return execute_run(replace(opened, tasks=toy_tasks), backbone)

    return run


def test_a_stopwatch_counts_nested_blocks_once():
    watch = Stopwatch(torch.device("cpu"))
    begin = time.perf_counter()
    with watch, watch:
        time.sleep(0.02)
    outside = time.perf_counter() - begin
    time.sleep(0.02)
    assert 0.02 <= watch.read() <= outside


def test_bytes_of_a_state():
    assert bytes_of(torch.zeros(5)) == 20
    example = Example("ab", "cd", "e")
    assert bytes_of({"m": Memory({"t": (example, example)}), "n": 3, "none": None}) == 2 * len("abcd\nAnswer:e") + 8
    assert bytes_of([torch.zeros(2, dtype=torch.float64), "xyz"]) == 16 + 3


def test_batches_and_replayed_rows(costs_of, toy_tasks):
    first, second = costs_of("seqlora").costs
    for cost in (first, second):
        assert cost.forward_batches == cost.backward_batches == 6
        assert (cost.rows, cost.replayed_rows, cost.kept_bytes) == (48, 0, 0)
    first, second = costs_of("lorareplay", memory_ratio=0.25).costs
    assert (first.rows, first.replayed_rows) == (48, 0)
    assert (second.rows, second.replayed_rows) == (2 * (24 + 6), 2 * 6)
    rows = costs_of("lorareplay", memory_ratio=1.0).costs[0].kept_bytes
    assert rows == sum(len((e.prompt + e.target).encode()) for e in toy_tasks[0].train)
    second = costs_of("rkif", memory_ratio=0.25, window=2, outer_steps=3).costs[1]
    assert second.forward_batches == second.backward_batches == 6 + 3 * 3
    assert (second.rows, second.replayed_rows) == (48 + 9 * 6, 9 * 6)
    second = costs_of("vrmcl", memory_ratio=0.25).costs[1]
    assert second.backward_batches == (2 * 6 - 1) * (4 + 2)  # four slices, then the batch and the memory
    assert second.replayed_rows == 6 * 6
    union = costs_of("mtl").costs
    assert [cost.replayed_rows for cost in union] == [0]


def test_bytes_between_tasks_and_within_one(costs_of):
    record = costs_of("ewc")
    size = 4 * record.trainable_weights
    first, second = record.costs
    assert first.backward_batches == 6 + 3  # the Fisher information is one more pass
    assert first.kept_bytes == second.kept_bytes == 2 * size + 4 + 8  # F, anchor, a constant, the number of tasks
    assert first.held_bytes is None  # looked at in the second task
    held = {name: costs_of(name, **given).costs[1].held_bytes for name, given in METHODS.items()}
    assert held["seqlora"] < size
    assert 3 * size <= held["tasl"] < 4 * size  # the old weights, importance and deviation
    assert 4 * size <= held["rkif"] < 6 * size  # theta_b, the outer importance, the outer AdamW's moments


METHODS = {"seqlora": {}, "tasl": {}, "rkif": {"memory_ratio": 0.25, "window": 2}}


def test_own_seconds_are_a_part_of_learning_and_show_prints_them(costs_of, clbench, tmp_path):
    record = costs_of("tasl")
    for cost, seconds in zip(record.costs, record.timings.learn_seconds, strict=True):
        assert 0 <= cost.own_seconds <= seconds + 0.01
    shown = " ".join(clbench("show", record.name, "--results", tmp_path).output.split())
    assert "12 forward and 12 backward batches, 0 of 96 rows replayed" in shown
    assert "of the method's own arithmetic" in shown
    silent = msgspec.structs.replace(record, costs=())
    assert cost_text(silent) == ""
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(encode_record(silent))
    assert clbench("show", record.name, "--results", tmp_path).exit_code == 0


def test_own_seconds_are_those_outside_model_optimizer_and_batches(backbone, toy_tasks, tmp_path, monkeypatch):
    """By a clock of our own: a forward pass takes 100 s, its backward pass 1000, the method's arithmetic 1 a step."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("clbench.learning.stopwatch.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def takes(seconds):
        clock.now += seconds

    class Slow:
        @hookimpl
        def learn_task(self, learner, task):
            training = learner.training(task.train)
            for batch in training:
                loss = learner.loss(batch)
                loss.register_hook(lambda _: takes(1000))
                takes(1)
                training.step(loss)
            return training.stats

    plugins = replace(EXAMPLE_PLUGINS, methods={"slow": Method("slow", Slow, "this test")})
    settings = Settings(backbone=backbone.name, stream=STREAM.name, epochs=2, **TINY)
    opened = replace(RunOpener(plugins, tmp_path).open(RunSpec("slow", {}, settings)), tasks=toy_tasks)
    handle = backbone.model.register_forward_pre_hook(lambda *_: takes(100))
    try:
        record = execute_run(opened, backbone)
    finally:
        handle.remove()
    assert [cost.own_seconds for cost in record.costs] == [6, 6]
    assert clock.now > 12 * 1101


def test_a_loss_at_other_weights_and_its_gradient(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    (batch,) = next(learner.feed.draws(toy_tasks[0].train, learner.generator("any")))
    other = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 10
    start = learner.weights.copy()
    point = other.clone().requires_grad_()
    learner.passes.train_mode()
    elsewhere = learner.loss(batch, point)
    gradient = learner.passes.gradient(elsewhere, point)
    assert torch.equal(learner.weights.data, start)
    assert not learner.weights.grad.any()
    learner.weights.assign(other)
    here = learner.loss(batch)
    learner.passes.backward(here)
    assert here.item() == pytest.approx(elsewhere.item(), rel=1e-6)
    assert torch.allclose(learner.weights.grad, gradient, atol=1e-6)
    assert (learner.cost.forward_batches, learner.cost.backward_batches) == (2, 2)


def test_the_mean_gradient_is_that_of_one_batch_without_dropout(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.5, micro_batch=3)
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 10)
    rows = toy_tasks[0].train[:8]
    found = learner.passes.mean_gradient(rows)
    plain = make_learner(lora_dropout=0.0)
    plain.weights.assign(torch.randn(len(plain.weights), generator=torch.Generator().manual_seed(0)) / 10)
    (batch,) = next(plain.feed.draws(rows, plain.generator("any")))
    plain.passes.backward(plain.loss(replace(batch)))
    assert torch.allclose(found, plain.weights.grad, atol=1e-5)
