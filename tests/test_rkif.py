"""Recurrent-KIF: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch
from clbench.plugins.lorareplay import LoRAReplay
from clbench.plugins.rkif import RecurrentKIF
from clbench.plugins.seqlora import SeqLoRA

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError

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
        super().fuse(learner, replay, start, inner, outer)
        self.seen.append((start.clone(), end_of_inner, learner.weights.copy(), replay))


def learn_two(learner, tasks, method):
    """Learn two tasks; return the second one's report."""
    method.seen = []
    for index, task in enumerate(tasks):
        learner.begin_task(index)
        report = method.learn_task(learner, task)
    return report


def options(**changed):
    return {"window": 2, "outer_steps": 3, "memory_ratio": 0.25, **changed}


def test_fusions_per_task_and_scheduler_steps(make_learner, toy_tasks):
    learner = make_learner(epochs=3)  # 3 steps an epoch: S = 9, K = 2
    method = Recorder(**options())
    learner.begin_task(0)
    method.seen = []
    assert method.learn_task(learner, toy_tasks[0])["fusions"] == 0
    learner.begin_task(1)
    report = method.learn_task(learner, toy_tasks[1])
    assert (report["steps"], report["fusions"], len(method.seen)) == (9, 4, 4)


def test_shared_optimizer_counts_inner_and_outer_steps(make_learner, toy_tasks):
    learner = make_learner(epochs=3)
    method = Recorder(**options(outer_optimizer="shared"))
    learn_two(learner, toy_tasks, method)
    replay = method.seen[-1][3]
    # S + M * floor(S / K), the last window's remainder of one step included
    assert int(replay.optimizer.state[learner.weights.vector]["step"]) == 9 + 3 * 4


def test_an_outer_learning_rate_of_zero_leaves_the_masked_inner_vector(make_learner, toy_tasks):
    method = Recorder(**options(outer_learning_rate=0.0))
    learn_two(make_learner(epochs=2), toy_tasks, method)
    for start, end_of_inner, after, _ in method.seen:
        change, tau_in = after - start, end_of_inner - start
        assert ((change == 0) | torch.isclose(change, tau_in, atol=1e-7)).all()
        assert 0.15 < (change != 0).float().mean() < 0.25
        assert tau_in.abs().max() > 0


def test_where_both_masks_are_zero_the_weights_return(make_learner, toy_tasks):
    method = Recorder(**options())
    learn_two(make_learner(epochs=2), toy_tasks, method)
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


def test_importance_of_one_step_is_weight_times_gradient(make_learner, toy_tasks):
    learner = make_learner(clip_norm=0.01)
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)))
    for measured in ("before_step", "after_step"):
        method = RecurrentKIF(measured=measured)
        phase = learner.training(toy_tasks[0].train)
        phase._schedule.step()  # leave the warm-up's zero
        sink = Sink()
        for batch in phase.take(1):
            loss = learner.loss(batch)
            before = learner.weights.copy()
            method.observed_step(learner, phase, loss, sink)
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
    method.seen, given, shares = [], [], method.shares
    method.shares = lambda inner, outer, weights: given.append(outer.clone()) or shares(inner, outer, weights)
    scaled = []
    for index, task in enumerate([*toy_tasks, replace(toy_tasks[0], name="third")]):
        learner.begin_task(index, task)
        method.learn_task(learner, task)
        raw = (learner.weights.data * learner.mean_gradient(method.memory.of_task[task.name])).abs()
        scaled.append((raw - raw.min()) / (raw.max() - raw.min()))
    assert len(given) == 2 * 3  # two tasks with a past, three windows each
    assert all(torch.equal(outer, scaled[0]) for outer in given[:3])
    assert all(torch.allclose(outer, (scaled[0] + scaled[1]) / 2) for outer in given[3:])
    assert torch.allclose(method.static, sum(scaled) / 3)
    current = make_learner(epochs=2)
    learn_two(current, toy_tasks, RecurrentKIF(**options()))
    again = make_learner(epochs=2)
    learn_two(again, toy_tasks, RecurrentKIF(**options(outer_importance="static")))
    assert not torch.equal(current.weights.data, again.weights.data)  # the masks differ ...
    assert len(method.seen) == 6
    assert all(not torch.equal(end, after) for _, end, after, _ in method.seen)  # ... and tau_out is still taken


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


@pytest.mark.parametrize(
    "bad", [{"window": 0}, {"top": 1.0}, {"inner_smoothing": 1.0}, {"inner_smoothing": 0, "score": "mean_times_spread"}]
)
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match=r"must|deviation"):
        RecurrentKIF(**bad)
