"""TaSL and TasLoRA: the numeric properties of their specification, with the real method."""

import pytest
import torch

from clbench.discovery import find_plugins
from clbench.plugins.seqlora import SeqLoRA
from clbench.plugins.tasl import TaSL, departure, rank_stacks


def taslora(**options):
    method = find_plugins().method("tasl")
    return method.build(method.resolve_options({"variant": "taslora", **options}))


def random_like(learner, seed):
    return torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(seed))


def units_of(method, learner):
    return len(method.unit_scores(learner.weights.views(torch.ones(len(learner.weights)))))


def merged(method, learner, present, previous):
    """Merge random old and new weights under given importance; return old, new and the result."""
    old, new = random_like(learner, 1), random_like(learner, 2)
    learner.weights.assign(new)
    method.accumulated = previous
    method.consolidate(learner.weights, old, present)
    return old, new, learner.weights.data


def test_hard_shares_by_hand():
    only_first = torch.tensor([1.0, 0, 0, 0, 0, 0])
    only_last = torch.tensor([0.0, 0, 0, 0, 0, 1])
    method = TaSL()
    assert method.shares(only_first, only_last).tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0]
    assert method.shares(only_first, only_first).tolist() == pytest.approx([0.3, 0.5, 0.5, 0.5, 0.5, 0.5])
    zeros = torch.zeros(6)
    assert method.shares(zeros, zeros).tolist() == [0.5] * 6


def test_two_of_ten_units_exceed_the_80th_percentile():
    present = torch.tensor([0.5, 0.1, 0.9, 0.2, 1.0, 0.3, 0.0, 0.4, 0.6, 0.7])
    shares = TaSL().shares(present, torch.zeros(10))
    assert shares.tolist() == [0.5, 0.5, 1, 0.5, 1, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_merging_by_matrix(make_learner):
    learner = make_learner()
    units = units_of(TaSL(), learner)
    assert units == 12
    flat = torch.ones(units)
    first, last = torch.arange(units, 0.0, -1), torch.arange(1.0, units + 1)
    old, new, result = merged(TaSL(), learner, flat, flat)  # neither
    assert torch.allclose(result, (old + new) / 2)
    old, new, result = merged(TaSL(), learner, first, last)
    views = [list(learner.weights.views(vector).values()) for vector in (old, new, result)]
    assert torch.equal(views[2][0], views[1][0])  # new only
    assert torch.equal(views[2][11], views[0][11])  # old only
    assert torch.allclose(views[2][5], (views[0][5] + views[1][5]) / 2)
    old, new, result = merged(TaSL(), learner, first, first)
    views = [list(learner.weights.views(vector).values()) for vector in (old, new, result)]
    assert torch.allclose(views[2][0], 0.3 * views[1][0] + 0.7 * views[0][0])


@pytest.mark.parametrize("method", [TaSL(), taslora()], ids=["tasl", "taslora"])
def test_merging_equal_weights_is_the_identity(make_learner, method):
    learner = make_learner()
    units = units_of(method, learner)
    old = random_like(learner, 1)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        learner.weights.assign(old)
        method.accumulated = torch.rand(units, generator=generator)
        method.consolidate(learner.weights, old, torch.rand(units, generator=generator))
        assert torch.equal(learner.weights.data, old)


def test_rank_units_score_the_outer_product_of_their_slices(make_learner):
    learner = make_learner()  # rank 2, six modules
    element = random_like(learner, 0).abs()
    views = learner.weights.views(element)
    scores = taslora().unit_scores(views)
    assert len(scores) == 6 * 2
    names = [name for name in views if "lora_A" in name]
    for number, score in enumerate(scores):
        a = views[names[number // 2]][number % 2]
        b = views[names[number // 2].replace("lora_A", "lora_B")][:, number % 2]
        assert score.item() == pytest.approx(torch.outer(b, a).mean().item(), rel=1e-4)
    shares = taslora().per_weight(learner.weights, torch.arange(12.0))
    of_weight = learner.weights.views(shares)
    a, b = of_weight[names[3]], of_weight[names[3].replace("lora_A", "lora_B")]
    assert a[0].unique().tolist() == b[:, 0].unique().tolist() == [6]
    assert a[1].unique().tolist() == b[:, 1].unique().tolist() == [7]


def test_soft_shares():
    p, q = torch.tensor([1.0, 0.4, 0.0]), torch.tensor([0.0, 0.4, 1.0])
    shares = taslora().shares(p, q)
    assert shares.tolist() == pytest.approx([0.98201, 0.5, 0.01799], abs=1e-5)
    assert (shares + taslora().shares(q, p)).tolist() == pytest.approx([1, 1, 1])


def test_importance_of_one_step():
    product = torch.tensor([2.0, -1.0])
    assert TaSL().measure(product).tolist() == [2, 1]
    assert TaSL(importance="second").measure(product).tolist() == [4, 1]
    assert taslora().measure(product).tolist() == [0, 1.5]


def test_accumulated_importance(make_learner):
    learner, method = make_learner(), TaSL()
    scores = torch.rand(12, generator=torch.Generator().manual_seed(0))
    start = learner.weights.copy()
    method.consolidate(learner.weights, torch.zeros_like(start), scores)
    assert torch.equal(learner.weights.data, start)  # the first task is not merged
    assert method.accumulated is scores
    method.consolidate(learner.weights, start, 5 * scores)
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    assert torch.allclose(method.accumulated, scaled)  # p = q: accumulated = p
    method.consolidate(learner.weights, start, torch.rand(12, generator=torch.Generator().manual_seed(1)))
    assert method.accumulated.min() == 0
    assert method.accumulated.max() == 1
    method.consolidate(learner.weights, start, torch.ones(12))  # all units equal: no division by zero
    assert torch.isfinite(method.accumulated).all()


class Recorder(TaSL):
    """The method, with the products of weight and gradient that it measured."""

    def measure(self, product):
        self.products = [*vars(self).get("products", []), product.clone()]
        return super().measure(product)


def test_the_first_task_is_seqlora_and_its_first_step_is_not_measured(make_learner, toy_tasks):
    ends, method = [], Recorder()
    for each in (method, SeqLoRA()):
        learner = make_learner(epochs=2)
        learner.begin_task(0, toy_tasks[0])
        report = each.learn_task(learner, toy_tasks[0])
        ends.append(learner.weights.copy())
    assert torch.equal(*ends)
    assert report["steps"] == 6
    assert len(method.products) == 6 - 1
    assert method.accumulated.min() > 0


def test_importance_of_a_task_is_the_smoothed_product_times_its_deviation(make_learner, toy_tasks):
    learner, method = make_learner(clip_norm=0.01), Recorder()
    learner.weights.assign(random_like(learner, 0) / 5)
    method.learn_task(learner, toy_tasks[0])  # three steps, two of them measured
    assert learner.weights.grad.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(
        method.products[-1], learner.weights.data * learner.weights.grad
    )  # after the step, after clipping
    first, second = (product.abs() for product in method.products)
    mean_1 = 0.15 * first
    mean_2 = 0.85 * mean_1 + 0.15 * second
    deviation = 0.85 * 0.15 * (first - mean_1) + 0.15 * (second - mean_2).abs()
    by_matrix = learner.weights.views(mean_2 * deviation).values()
    assert torch.allclose(method.accumulated, torch.stack([view.mean() for view in by_matrix]), rtol=1e-4)


def test_orthogonality_by_hand_and_as_a_pull(make_learner, toy_tasks):
    learner = make_learner()
    learner.weights.assign(torch.zeros(len(learner.weights)))
    stacks = rank_stacks(learner.weights)
    assert sum(len(stack) for stack in stacks) == 12
    assert departure(learner.weights.data, stacks).item() == pytest.approx(2**0.5)  # ||0 - I|| of rank 2
    for name, view in learner.weights.views(learner.weights.data).items():
        eye = torch.eye(2, max(view.shape))
        view.copy_(eye if "lora_A" in name else 2 * eye.T)  # A A^T = I, B^T B = 4 I
    assert departure(learner.weights.data, stacks).item() == pytest.approx((0 + 3 * 2**0.5) / 2)
    ends = []
    for weight in ("0.0", "10.0"):
        learner = make_learner(epochs=10)
        taslora(orthogonality=weight).learn_task(learner, toy_tasks[0])
        ends.append(departure(learner.weights.data, rank_stacks(learner.weights)).item())
    assert ends[1] < ends[0]


@pytest.mark.parametrize("name", ["tasl", "taslora"])
def test_variants_learn_two_tasks(make_learner, toy_tasks, name):
    method = find_plugins().method("tasl")
    instance = method.build(method.resolve_options({"variant": name}))
    learner = make_learner()
    for index, task in enumerate(toy_tasks):
        learner.begin_task(index, task)
        assert instance.learn_task(learner, task)["moved"] > 0
    assert torch.isfinite(learner.weights.data).all()
