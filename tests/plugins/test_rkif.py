"""Recurrent-KIF: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.learning.importance import Importance
from clbench.model.weights import Weights
from clbench.plugins.lorareplay import LoRAReplay
from clbench.plugins.rkif_variants import RecurrentKIFVariants as RecurrentKIF
from clbench.plugins.seqlora import SeqLoRA

INNER = torch.tensor([5, 4, 3, 2, 1, 0.9, 0.8, 0.7, 0.6, 0.5])
OUTER = torch.tensor([0.5, 5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4])


def release(**options) -> RecurrentKIF:
    method = find_plugins().method("rkif")
    return method.build(method.resolve_options({"variant": "release", **options}))


def fused(method: RecurrentKIF, tau_in: float = 1, tau_out: float = 10, inner=INNER, outer=OUTER) -> list[float]:
    share_in, share_out = method.shares(inner, outer, None)
    return (share_in * torch.full((10,), float(tau_in)) + share_out * torch.full((10,), float(tau_out))).tolist()


def test_fusion_of_the_fixture_by_paper_and_by_release():
    assert fused(RecurrentKIF()) == [1, 11, 0, 0, 0, 0, 0, 0, 0, 10]
    assert fused(release()) == pytest.approx([1, 6.4, *[5.5] * 7, 10])


def test_the_other_merges_of_the_ablations():
    assert fused(RecurrentKIF(merge="exclusive")) == [1, 0, 0, 0, 0, 0, 0, 0, 0, 10]
    assert fused(RecurrentKIF(merge="all")) == [11] * 10
    weight = INNER.sum() / (INNER.sum() + OUTER.sum())
    assert fused(RecurrentKIF(merge="scalar")) == pytest.approx([(weight + 10 * (1 - weight)).item()] * 10)
    adaptive = fused(RecurrentKIF(merge="adaptive", temperature=0.25))
    n_in, n_out = 1.0, 0.0  # the first entry holds the largest inner and the smallest outer score
    c_in = torch.exp(torch.tensor(n_in / 0.25)) / (
        torch.exp(torch.tensor(n_in / 0.25)) + torch.exp(torch.tensor(n_out / 0.25))
    )
    assert adaptive[0] == pytest.approx((c_in + 10 * (1 - c_in)).item(), rel=1e-5)
    assert fused(RecurrentKIF(merge="adaptive"), inner=torch.ones(10), outer=torch.ones(10)) == [5.5] * 10


class Sink:
    """Stands for an importance: keeps the raw values."""

    def __init__(self):
        self.seen = []

    def update(self, raw):
        self.seen.append(raw)


class Recorder(RecurrentKIF):
    """The method, with what each fusion saw and did."""

    def fuse(self, learner, replay, start, inner, outer):
        end_of_inner = learner.weights.copy()
        self.rates.append(replay.learning_rate)
        super().fuse(learner, replay, start, inner, outer)
        self.seen.append((start.clone(), end_of_inner, learner.weights.copy(), replay))

    def step(self, learner, phase, loss, importance):
        if phase is not learner.phase:
            self.outer_begins.append(learner.weights.copy())
        return super().step(learner, phase, loss, importance)

    def raw_importance(self, weights, gradient):
        self.points.append(weights.clone())
        self.raw.append(super().raw_importance(weights, gradient))
        return self.raw[-1]

    def shares(self, inner, outer, weights):
        self.scores.append((inner.clone(), outer.clone()))
        self.given = super().shares(inner, outer, weights)
        return self.given


def learn_two(learner, tasks, method):
    """Learn two tasks; return the second one's report."""
    method.seen, method.rates, method.outer_begins, method.raw, method.points, method.scores = ([] for _ in range(6))
    for index, task in enumerate(tasks):
        learner.begin_task(index)
        report = method.learn_task(learner, task)
    return report if tasks else None


def options(**changed):
    return {"window": 2, "outer_steps": 3, "memory_ratio": 0.25, **changed}


@pytest.mark.parametrize("optimizer", ["own", "shared"])
def test_fusions_per_task_and_steps_of_optimizers_and_schedule(make_learner, toy_tasks, optimizer):
    learner = make_learner(epochs=3)  # 3 steps an epoch: S = 9, K = 2, M = 3
    assert learn_two(learner, toy_tasks[:1], Recorder())["fusions"] == 0
    method = Recorder(**options(outer_optimizer=optimizer))
    report = learn_two(learner, toy_tasks, method)
    assert (report["steps"], report["fusions"], len(method.seen)) == (9, 4, 4)
    # the schedule falls from 0.01 to 0 in S steps and stands still during the outer ones, which take its rate
    assert method.rates == pytest.approx([0.01 * left / 9 for left in (7, 5, 3, 1)])
    assert learner.phase.learning_rate == 0
    taken = [int(p.optimizer.state[learner.weights.vector]["step"]) for p in (learner.phase, method.seen[-1][3])]
    assert taken == ([9, 3 * 4] if optimizer == "own" else [9 + 3 * 4] * 2)


def test_an_outer_learning_rate_of_zero_leaves_the_masked_inner_vector(make_learner, toy_tasks):
    method = Recorder(**options(outer_learning_rate=0.0))
    learn_two(make_learner(epochs=2), toy_tasks, method)
    assert method.seen
    for start, end_of_inner, after, _ in method.seen:
        change, tau_in = after - start, end_of_inner - start
        assert ((change == 0) | torch.isclose(change, tau_in, atol=1e-7)).all()
        assert 0.15 < (change != 0).float().mean() < 0.25
        assert tau_in.abs().max() > 0


def test_without_a_window_a_task_is_fused_once_at_its_end(make_learner, toy_tasks):
    learner, method = make_learner(epochs=3), Recorder(**options(window=None, merge="all"))
    assert learn_two(learner, toy_tasks, method)["fusions"] == 1
    assert method.rates == [0.01]  # after all nine steps the scheduled rate is 0
    ((_, end_of_inner, after, _),) = method.seen
    assert not torch.equal(end_of_inner, after)
    values = find_plugins().method("rkif").resolve_options({"window": "none"})
    assert values["window"] is None


def test_the_released_llama_path_fuses_the_inner_vector_alone(make_learner, toy_tasks):
    seen = []

    class Fused(Recorder):
        def fuse(self, learner, *rest):
            super().fuse(learner, *rest)
            seen.append((*self.seen[-1][:3], self.given[0]))

    values = find_plugins().method("rkif").resolve_options({"variant": "release_llama"})
    learn_two(make_learner(epochs=2), toy_tasks, Fused(**{**values, **options()}))
    assert len(seen) == 3
    for start, end_of_inner, after, share_in in seen:
        assert torch.equal(after, start + share_in * (end_of_inner - start))  # tau_out is 0
        assert share_in.unique().tolist() == pytest.approx([0, 0.4, 0.5, 1])


def smoothed(alpha, *raw):
    """The moving average of equations 4 and 7, written out."""
    result = torch.zeros_like(raw[0])
    for value in raw:
        result = alpha * result + (1 - alpha) * value
    return result


def test_inner_importance_restarts_in_each_window_and_outer_importance_goes_on(make_learner, toy_tasks):
    method = Recorder(**options(inner_smoothing=0.3, outer_smoothing=0.8))
    learn_two(make_learner(epochs=2), toy_tasks, method)
    windows = [method.raw[i : i + 3] for i in range(0, 9, 3)]  # two inner steps, and the first of three outer ones
    assert len(method.raw) == 9
    assert len(method.scores) == 3
    for number, ((first, second, _), (inner, outer)) in enumerate(zip(windows, method.scores, strict=True), start=1):
        assert torch.allclose(inner, 0.7 * 0.3 * first + 0.7 * second)
        assert torch.allclose(outer, smoothed(0.8, *(window[2] for window in windows[:number])))
        assert torch.equal(method.points[3 * number - 1], method.seen[number - 1][1])  # taken at theta_b(K)
    going_on = Recorder(**options(inner_smoothing=0.3, restart_inner=False))
    learn_two(make_learner(epochs=2), toy_tasks, going_on)
    inner_steps = [raw for i, raw in enumerate(going_on.raw) if i % 3 != 2]
    assert torch.allclose(going_on.scores[-1][0], smoothed(0.3, *inner_steps))
    each = Recorder(**options(outer_smoothing=0.8, outer_update="step"))
    learn_two(make_learner(epochs=2), toy_tasks, each)
    assert len(each.raw) == 3 * (2 + 3)
    assert torch.allclose(each.scores[-1][1], smoothed(0.8, *(raw for i, raw in enumerate(each.raw) if i % 5 >= 2)))
    alone = Recorder(**options(inner_smoothing=0.0, outer_smoothing=0.0))
    learn_two(make_learner(epochs=2), toy_tasks, alone)
    assert torch.equal(alone.scores[1][0], alone.raw[4])
    assert torch.equal(alone.scores[1][1], alone.raw[5])


def test_the_outer_steps_start_from_the_end_of_the_inner_ones_or_from_the_window(make_learner, toy_tasks):
    for outer_start, position in (("inner", 1), ("window", 0)):
        method = Recorder(**options(outer_start=outer_start, merge="all"))
        learn_two(make_learner(epochs=2), toy_tasks, method)
        for begin, seen in zip(method.outer_begins[::3], method.seen, strict=True):
            assert torch.equal(begin, seen[position])
        start, end_of_inner, after, _ = method.seen[1]
        tau_out = after - start - (end_of_inner - start)
        assert tau_out.abs().max() > 1e-3


def test_where_both_masks_are_zero_the_weights_return(make_learner, toy_tasks):
    method = Recorder(**options())
    learn_two(make_learner(epochs=2), toy_tasks, method)
    assert method.seen
    for start, _, after, _ in method.seen:
        unchanged = (after == start).float().mean()
        assert 0.6 <= unchanged <= 0.8  # two masks of 20% each, somewhere between disjoint and the same


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_all_ones_masks_with_the_shared_optimizer_equal_interleaved_replay(make_learner, toy_tasks, micro_batch):
    ends = []
    for method in (
        RecurrentKIF(**options(merge="all", outer_optimizer="shared")),
        LoRAReplay(mix="interleave", window=2, replay_steps=3, memory_ratio=0.25),
    ):
        learner = make_learner(epochs=2, micro_batch=micro_batch)
        learn_two(learner, toy_tasks, method)
        ends.append(learner.weights.copy())
    assert torch.allclose(*ends, atol=1e-5)
    plain = make_learner(epochs=2, micro_batch=micro_batch)
    learn_two(plain, toy_tasks, SeqLoRA())
    assert not torch.allclose(ends[0], plain.weights.data, atol=1e-3)


def test_scaling_the_memory_loss_leaves_the_outer_mask(make_learner, toy_tasks):
    masks = []
    for scale in (1.0, 0.25):
        method = Recorder(**options(outer_loss_scale=scale, outer_learning_rate=0.0))
        seen = []
        method.mask = lambda scores, weights, seen=seen, method=method: (
            seen.append(RecurrentKIF.mask(method, scores, weights)) or seen[-1]
        )
        learn_two(make_learner(epochs=1), toy_tasks, method)
        masks.append(seen)
    assert len(masks[0]) == 2  # one fusion, inner and outer
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_importance_is_weight_times_gradient_or_the_gradient_alone():
    weights, gradient = torch.tensor([2.0, -3.0]), torch.tensor([-1.0, 0.5])
    assert RecurrentKIF().raw_importance(weights, gradient).tolist() == [2, 1.5]
    assert RecurrentKIF(importance="gradient").raw_importance(weights, gradient).tolist() == [1, 0.5]


def test_importance_of_one_step_is_weight_times_gradient(make_learner, toy_tasks):
    learner = make_learner(clip_norm=0.01, warmup_steps=0)  # a warm-up begins with a rate of zero
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)))
    for measured in ("before_step", "after_step"):
        method = RecurrentKIF(measured=measured)
        phase = learner.training(toy_tasks[0].train)
        sink = Sink()
        for batch in phase.take(1):
            loss = learner.loss(batch)
            before = learner.weights.copy()
            method.step(learner, phase, loss, sink)
        clipped = learner.weights.grad  # as the optimizer saw it, of norm 0.01
        after = learner.weights.data
        assert not torch.equal(before, after)
        if measured == "after_step":
            assert torch.allclose(sink.seen[0], (after * clipped).abs())
        else:
            ratio = sink.seen[0].norm() / (before * clipped).norm()  # the unclipped gradient is longer
            assert ratio > 1.5
            assert torch.allclose(sink.seen[0], (before * clipped).abs() * ratio, rtol=1e-3, atol=1e-6)


def test_per_tensor_thresholds_let_every_tensor_through(make_learner):
    learner = make_learner()
    scores = torch.rand(len(learner.weights), generator=torch.Generator().manual_seed(0))
    scores[: len(scores) // 2] += 10  # globally only these would pass
    mask = RecurrentKIF(scope="tensor").mask(scores, learner.weights)
    for name, view in learner.weights.views(mask.float()).items():
        assert 0.15 < view.mean() < 0.3, name


def test_static_importance_is_measured_once_a_task_on_its_memory(make_learner, toy_tasks):
    learner, method = make_learner(epochs=2), Recorder(**options(outer_importance="static"))
    learn_two(learner, [], method)
    scaled = []
    for index, task in enumerate([*toy_tasks, replace(toy_tasks[0], name="third")]):
        learner.begin_task(index, task)
        method.learn_task(learner, task)
        raw = (learner.weights.data * learner.passes.mean_gradient(method.memory.of_task[task.name])).abs()
        scaled.append((raw - raw.min()) / (raw.max() - raw.min()))
    given = [outer for _, outer in method.scores]
    assert len(given) == 2 * 3  # two tasks with a past, three windows each
    assert all(torch.equal(outer, scaled[0]) for outer in given[:3])
    assert all(torch.allclose(outer, (scaled[0] + scaled[1]) / 2) for outer in given[3:])
    assert torch.allclose(method.static, sum(scaled) / 3)
    current = make_learner(epochs=2)
    learn_two(current, toy_tasks, RecurrentKIF(**options()))
    measured_anew = current.weights.copy()
    again = make_learner(epochs=2)
    learn_two(again, toy_tasks, RecurrentKIF(**options(outer_importance="static")))
    assert not torch.equal(measured_anew, again.weights.data)  # the masks differ ...
    assert len(method.seen) == 6
    assert all(not torch.equal(end, after) for _, end, after, _ in method.seen)  # ... and tau_out is still taken


SWITCHES = [
    ("importance", "gradient"), ("measured", "after_step"), ("score", "mean_times_spread"), ("outer_update", "step"),
    ("outer_importance", "static"), ("restart_inner", "false"), ("scope", "tensor"), ("merge", "average"),
    ("merge", "all"), ("merge", "exclusive"), ("merge", "scalar"), ("merge", "adaptive"), ("outer_start", "window"),
    ("outer_optimizer", "shared"), ("outer_learning_rate", "0.001"), ("inner_smoothing", "0"), ("outer_smoothing", "0"),
    ("top", "0.5"), ("window", "3"), ("outer_steps", "1"), ("outer_loss_scale", "0.01"),
]  # fmt: skip


def test_every_switch_of_the_command_line_changes_what_is_learned(make_learner, toy_tasks):
    method, ends = find_plugins().method("rkif"), {}
    for name, text in [("memory_ratio", "0.25"), *SWITCHES]:
        given = {"window": "2", "outer_steps": "3", "memory_ratio": "0.25", name: text}
        learner = make_learner(epochs=2)
        learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 5)
        tasks = [replace(toy_tasks[0], train=toy_tasks[0].train[:8]), toy_tasks[1]]
        learn_two(learner, tasks, method.build(method.resolve_options(given)))
        ends[name, text] = learner.weights.copy()
    usual = ends.pop(("memory_ratio", "0.25"))
    assert not [switch for switch, end in ends.items() if torch.equal(end, usual)]
    assert {name for name, _ in SWITCHES} == method.options.keys() - {"memory_ratio", "temperature", "ties"}


class Calls(TorchDispatchMode):
    """Count the calls of tensor functions, and among them those that read a value from the device."""

    def __init__(self):
        super().__init__()
        self.number = self.readings = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        self.readings += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


FORMS = [{}, {"scope": "tensor", "ties": "out"}, {"variant": "release"}, {"merge": "scalar"}, {"merge": "adaptive"}]


def readings_per_forward_pass(learner, method, task):
    learner.begin_task(1)
    with Calls() as calls:
        method.learn_task(learner, task)
    return (calls.readings - 1) / learner.cost.forward_batches  # one is the mean loss that is reported at the end


@pytest.mark.parametrize("given", FORMS, ids=str)
def test_no_step_reads_from_the_device_but_the_model(make_learner, toy_tasks, given):
    """The model's forward pass does (transformers looks whether there is padding); the method must add nothing to it."""
    method = find_plugins().method("rkif")
    rkif = method.build(method.resolve_options({"window": "2", "outer_steps": "3", "memory_ratio": "0.25", **given}))
    rkif.memory.remember(toy_tasks[0], 0.25, 0)
    plain = readings_per_forward_pass(make_learner(epochs=2), SeqLoRA(), toy_tasks[1])
    assert readings_per_forward_pass(make_learner(epochs=2), rkif, toy_tasks[1]) == plain


@pytest.mark.parametrize("given", FORMS, ids=str)
def test_the_calls_of_a_fusion_do_not_grow_with_the_tensors(given):
    """On the meta device there are no values: whatever waited for one would fail."""
    method, numbers = find_plugins().method("rkif"), []
    for layers in (2, 20):
        module = nn.Sequential(*(nn.Linear(8, 6, bias=False, device="meta") for _ in range(layers)))
        weights = Weights(module)
        assert len(weights.positions_by_size) == 1
        built = method.build(method.resolve_options(given))
        inner, outer = (Importance(0.5, built.score == "mean_times_spread") for _ in range(2))
        with Calls() as calls:
            for importance in (inner, outer):
                importance.update(built.raw_importance(weights.data, weights.grad))
            share_in, share_out = built.shares(inner.score, outer.score, weights)
            weights.assign(weights.data + share_in * weights.grad + share_out * weights.grad)
        numbers.append(calls.number)
    assert numbers[0] == numbers[1] > 10


@pytest.mark.parametrize("name", ["release", "release_llama", "paper"])
def test_variants_learn(make_learner, toy_tasks, name):
    method = find_plugins().method("rkif")
    values = method.resolve_options({"variant": name, "window": "1", "memory_ratio": "0.25"})
    report = learn_two(make_learner(), toy_tasks, method.build(values))
    assert report["fusions"] == 3


def test_a_variant_is_a_set_of_options_that_single_options_override():
    method = find_plugins().method("rkif")
    assert method.resolve_options({"variant": "paper"}) == method.resolve_options({})
    values = method.resolve_options({"variant": "release", "merge": "mask"})
    assert (values["merge"], values["inner_smoothing"], values["outer_optimizer"]) == ("mask", 0.85, "shared")
    with pytest.raises(ClbenchError, match=r"no variant of method 'rkif': 'realease'; did you mean 'release'\?"):
        method.resolve_options({"variant": "realease"})


def test_a_deviation_without_smoothing_is_refused():
    with pytest.raises(ClbenchError, match="without smoothing the deviation is zero: use score=mean"):
        find_plugins().method("rkif").build({"inner_smoothing": 0.0, "score": "mean_times_spread"})
