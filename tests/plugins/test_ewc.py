"""EWC: the numeric properties of its specification, with the real method."""

import pytest
import torch
from torch import nn

from clbench.encoding.batches import IGNORED
from clbench.learning.per_example_gradients import SampleSquares
from clbench.model.weights import Weights
from clbench.plugins.ewc import EWC
from clbench.plugins.seqlora import SeqLoRA


def learn(learner, tasks, method):
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        method.learn_task(learner, task)
    return learner.weights.copy()


def drawn(count, seed, size=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(count)]


def test_penalty_and_its_gradient_by_hand_and_by_finite_differences():
    method = EWC(strength=3.0)
    assert method.penalty(torch.ones(2)) == 0
    method.consolidate(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))
    assert method.penalty(method.anchor) == 0
    assert method.penalty_gradient(method.anchor).tolist() == [0, 0]
    theta = torch.tensor([2.0, 1.0])
    assert method.penalty(theta).item() == 3 / 2 * (2 * 1 + 0.5 * 4)
    assert method.penalty_gradient(theta).tolist() == [3 * 2 * 1, 3 * 0.5 * 2]
    for form in ("online", "offline", "mean"):
        method = EWC(strength=3.0, form=form)
        for fisher, anchor in zip(drawn(3, 0), drawn(3, 1), strict=True):
            method.consolidate(fisher, anchor)
        theta = drawn(1, 2)[0]
        numeric = torch.stack(
            [(method.penalty(theta + e) - method.penalty(theta - e)) / 2e-4 for e in 1e-4 * torch.eye(5).double()]
        )
        assert torch.allclose(method.penalty_gradient(theta), numeric, rtol=1e-6)


def test_offline_in_constant_memory_is_the_sum_over_tasks():
    method, fishers, anchors = EWC(strength=2.0, form="offline"), drawn(4, 3), drawn(4, 4)
    fishers[0][0] = fishers[1][0] = 0  # nobody needs this weight yet
    for fisher, anchor in zip(fishers, anchors, strict=True):
        method.consolidate(fisher, anchor)
    theta = drawn(1, 5)[0]
    explicit = sum((f * (theta - a).square()).sum() for f, a in zip(fishers, anchors, strict=True))
    assert method.penalty(theta).item() == pytest.approx(explicit.item(), rel=1e-5)
    slope = 2 * sum(f * (theta - a) for f, a in zip(fishers, anchors, strict=True))
    assert torch.allclose(method.penalty_gradient(theta), slope, rtol=1e-5)


def test_online_with_decay_1_and_equal_anchors_is_offline_and_decay_0_keeps_the_last_task():
    (anchor, theta), fishers = drawn(2, 6), drawn(2, 7)
    online, offline, forgetful = EWC(), EWC(form="offline"), EWC(decay=0.0)
    for method in (online, offline, forgetful):
        for fisher in fishers:
            method.consolidate(fisher, anchor)
    assert online.penalty(theta).item() == pytest.approx(offline.penalty(theta).item(), rel=1e-9)
    assert torch.equal(forgetful.fisher, fishers[1])


def test_mean_averages_over_tasks():
    method = EWC(form="mean")
    for value in (1.0, 2.0, 6.0):
        method.consolidate(torch.tensor([value]), torch.tensor([value]))
    assert method.fisher.item() == pytest.approx(3.0)
    assert method.anchor.item() == 6.0


def test_quadratic_tasks_end_at_the_joint_optimum():
    """With F_k = h_k: after every task for online; offline anchors later tasks beside their own optimum, so after two."""
    curvatures, optima = [1.0, 3.0, 0.5], [2.0, -1.0, 4.0]
    for form, tasks in (("online", 3), ("offline", 2)):
        method, theta = EWC(strength=1.0, form=form), torch.tensor([2.0], dtype=torch.float64)
        for k in range(tasks):
            h, m = curvatures[k], optima[k]
            for _ in range(500):  # minimise h/2 (theta - m)^2 + penalty by the method's own gradient
                pull = method.penalty_gradient(theta) if k else 0.0
                theta = theta - 0.2 * (h * (theta - m) + pull)
            joint = sum(a * b for a, b in zip(curvatures[: k + 1], optima[: k + 1], strict=True))
            assert theta.item() == pytest.approx(joint / sum(curvatures[: k + 1]), rel=1e-6)
            method.consolidate(torch.tensor([h], dtype=torch.float64), theta)
    exact = EWC(form="offline")  # with every anchor at its task's optimum it is the joint one, whatever the number
    for h, m in zip(curvatures, optima, strict=True):
        exact.consolidate(torch.tensor([h]), torch.tensor([m]))
    assert exact.anchor.item() == pytest.approx((2 - 3 + 2) / 4.5)


def test_strength_0_is_seqlora_bitwise(make_learner, toy_tasks):
    plain = learn(make_learner(), toy_tasks, SeqLoRA())
    assert torch.equal(learn(make_learner(), toy_tasks, EWC(strength=0.0)), plain)
    held = learn(make_learner(), toy_tasks, EWC(strength=1000.0))
    assert not torch.equal(held, plain)


def test_a_huge_strength_stays_finite_and_near_the_anchor(make_learner, toy_tasks):
    starts, ends = [], []
    for strength in (0.0, 1e6):
        learner = make_learner(epochs=4)
        learner.begin_task(0, toy_tasks[0])
        method = EWC(strength=strength)
        method.learn_task(learner, toy_tasks[0])
        starts.append(learner.weights.copy())
        learner.begin_task(1, toy_tasks[1])
        fisher = method.fisher
        report = method.learn_task(learner, toy_tasks[1])
        ends.append(float((fisher * (learner.weights.data - starts[-1]).square()).sum()))
        assert torch.isfinite(learner.weights.data).all()
    assert torch.equal(*starts)
    assert report["penalty"] == pytest.approx(1e6 / 2 * ends[1], rel=1e-4)
    assert ends[1] < ends[0]


class Recorder(EWC):
    """The method, with the gradient of the last step of each task."""

    def estimate(self, learner, rows):
        self.gradient = learner.weights.grad.clone()
        return super().estimate(learner, rows)


def test_the_penalty_enters_once_a_step_whatever_the_micro_batches(make_learner, toy_tasks):
    gradients = []
    for micro_batch in (None, 2):
        learner = make_learner(lora_dropout=0.0, clip_norm=0.0, micro_batch=micro_batch)
        method = Recorder(strength=50.0)
        method.consolidate(torch.ones(len(learner.weights)), learner.weights.copy() + 0.01)
        training = learner.training(toy_tasks[0].train[:8])
        for batch in training:
            training.backward(learner.loss(batch))
        task_gradient = learner.weights.grad.clone()
        start = learner.weights.copy()
        learn(learner, [type(toy_tasks[0])("one step", toy_tasks[0].train[:8], ())], method)
        gradients.append(method.gradient)
        assert torch.allclose(method.gradient, task_gradient + 50 * (start - method_anchor(start)), atol=1e-5)
    assert torch.allclose(*gradients, atol=1e-6)


def method_anchor(start):
    """The anchor of the test above: 0.01 beside the weights."""
    return start + 0.01


@pytest.mark.parametrize(("clip", "longest"), [("total", 0.5), ("task", 100)])
def test_clipping_with_or_without_the_penalty(make_learner, toy_tasks, clip, longest):
    learner = make_learner(clip_norm=0.5)
    method = Recorder(strength=50.0, clip=clip)
    method.consolidate(torch.ones(len(learner.weights)), learner.weights.copy() + 0.01)
    learn(learner, toy_tasks[:1], method)
    norm = method.gradient.norm().item()
    assert norm <= longest * 1.001
    assert (norm > 1) == (clip == "task")


def test_fisher_of_a_linear_gaussian_model():
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 1, bias=False))
    weights = Weights(module)
    inputs = torch.randn(100_000, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5])
    noise = torch.randn(100_000, 1, generator=generator)
    squares = SampleSquares(module, weights)
    with squares:
        outputs = module(inputs)
        (0.5 * (outputs.detach() + noise - outputs).square().sum()).backward()
    assert torch.allclose(squares.total / 100_000, inputs.square().mean(0), rtol=0.02)
    module(inputs).sum().backward()  # the hooks are gone
    assert torch.allclose(squares.total / 100_000, inputs.square().mean(0), rtol=0.02)


def test_squared_gradients_are_those_of_each_example_alone(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.5, micro_batch=3)
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 10)
    rows = toy_tasks[0].train[:5] + toy_tasks[1].train[:5]
    expected = torch.zeros(len(learner.weights))
    learner.model.eval()
    for row in rows:
        (batch,) = learner.feed.once([row])
        learner.weights.zero_grad()
        (learner.loss(batch) * (batch.labels != IGNORED).sum()).backward()
        expected += learner.weights.grad.square() / len(rows)
    state = torch.get_rng_state()
    found = learner.passes.squared_gradients(rows)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert found.max() > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(learner.weights.grad, torch.zeros_like(found))


def test_fisher_is_normalised_and_can_be_taken_on_some_rows(make_learner, toy_tasks):
    learner = make_learner()
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)))
    rows = toy_tasks[0].train
    assert EWC(normalise=True).estimate(learner, rows).mean().item() == pytest.approx(1.0, rel=1e-4)
    raw = EWC(normalise=False).estimate(learner, rows)
    assert torch.equal(raw, learner.passes.squared_gradients(rows))
    assert not torch.equal(EWC(normalise=False, fisher_rows=3).estimate(learner, rows), raw)


def test_a_parameter_that_is_no_linear_weight_is_refused():
    module = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'0\.bias' is no linear layer's weight"):
        SampleSquares(module, Weights(module))
