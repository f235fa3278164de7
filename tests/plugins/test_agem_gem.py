"""A-GEM and GEM: the projection by hand and against its definition, and what a run does with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from clbench.learning.passes import Passes
from clbench.plugins import gem
from clbench.plugins.agem import AGEM
from clbench.plugins.agem import project as project_on_one
from clbench.plugins.gem import GEM, project
from clbench.plugins.seqlora import SeqLoRA


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("gradient", "reference", "expected"),
    [
        ([3.0, 1.0], [-1.0, 0.0], [0.0, 1.0]),
        ([3.0, 1.0], [-2.0, 2.0], [2.0, 2.0]),  # g . ref = -4, ref . ref = 8
        ([3.0, 1.0], [1.0, 0.0], [3.0, 1.0]),
        ([3.0, 1.0], [0.0, 0.0], [3.0, 1.0]),
    ],
)
def test_one_reference_by_hand(gradient, reference, expected):
    found = project_on_one(torch.tensor(gradient), torch.tensor(reference))
    assert found.tolist() == pytest.approx(expected)


def test_a_projected_gradient_is_orthogonal_to_the_reference_and_of_any_scale_of_it():
    gradient, reference = vectors(50), -vectors(50) + vectors(50, seed=1) / 2
    found = project_on_one(gradient, reference)
    assert gradient @ reference < -1
    assert float(found @ reference) == pytest.approx(0, abs=1e-4)
    assert torch.allclose(project_on_one(gradient, 7 * reference), found, atol=1e-5)


@pytest.mark.parametrize(
    ("references", "margin", "expected"),
    [
        ([[-1.0, 0.0]], 0.0, [0.0, 1.0]),
        ([[-1.0, 0.0], [0.0, -1.0]], 0.0, [0.0, 0.0]),  # g points away from both axes
        ([[-1.0, 0.0], [0.0, 1.0]], 0.0, [0.0, 1.0]),
        ([[-1.0, 0.0], [0.0, 1.0]], 0.5, [0.0, 1.5]),  # the second weighs 0.5, though it is kept anyway
        ([[-1.0, 0.0], [-1.0, 0.0]], 0.0, [0.0, 1.0]),  # the same constraint twice
        ([[-1.0, 0.0], [-1.0, 0.0]], 2.0, [-1.0, 1.0]),  # 3 - 2 - 2: both weigh at least 2
    ],
)
def test_several_references_by_hand(references, margin, expected):
    found = project(torch.tensor([3.0, 1.0]), torch.tensor(references), margin)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_gradient_that_points_away_from_none_is_left_whatever_the_margin():
    gradient = torch.tensor([3.0, 1.0])
    assert project(gradient, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 0.5) is gradient


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_it_is_the_solution_of_the_quadratic_program(margin):
    """The primal for no margin, the dual with its bound for any, each given to another solver."""
    gradient, references = vectors(40), vectors(6, 40, seed=1)
    found = project(gradient, references, margin)
    g, rows = gradient.double().numpy(), references.double().numpy()
    if not margin:
        assert (rows @ found.double().numpy() > -1e-4).all()
        kept = {"type": "ineq", "fun": lambda x: rows @ x, "jac": lambda x: rows}
        best = minimize(lambda x: ((x - g) ** 2).sum(), g, jac=lambda x: 2 * (x - g), constraints=[kept]).x
        assert np.allclose(found, best, atol=1e-3)
    dual = minimize(
        lambda v: ((rows.T @ v + g) ** 2).sum(), np.ones(6), bounds=[(margin, None)] * 6, options={"ftol": 1e-14}
    ).x
    assert np.allclose(found, rows.T @ dual + g, atol=1e-3)


def test_what_is_not_finite_is_left_to_whoever_takes_the_step():
    gradient = torch.tensor([float("nan"), 1.0])
    assert project(gradient, torch.tensor([[-1.0, 0.0]]), 0.5) is gradient
    assert project_on_one(gradient, torch.tensor([-1.0, 0.0])).isnan().all()


def learned(learner, tasks, method):
    reports = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return reports


@pytest.mark.parametrize("factory", [AGEM, GEM])
def test_without_a_memory_it_is_plain_training(make_learner, toy_tasks, factory):
    ends = []
    for method in (factory(memory_ratio=0.25), SeqLoRA()):
        learner = make_learner()
        learned(learner, toy_tasks[:1], method)
        ends.append(learner.weights.copy())
    assert torch.equal(*ends)


def test_the_gradient_of_a_step_is_that_of_its_micro_batches(make_learner, toy_tasks):
    found = []
    for size in (None, 3):
        learner = make_learner(lora_dropout=0.0, micro_batch=size)
        learner.weights.assign(vectors(len(learner.weights)) / 5)
        group = next(learner.feed.draws(toy_tasks[0].train, learner.generator("a")))
        assert len(group) == (1 if size is None else 3)
        found.append(learner.passes.step_gradient([(group, learner.loss)])[0])
    assert float((found[0] - found[1]).norm()) < 1e-4 * float(found[0].norm())


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (AGEM(memory_ratio=0.25), 6 * 2),
        (GEM(memory_ratio=0.25), 6 * 2),  # 6 remembered rows fit in one batch
        (GEM(memory_ratio=0.5), 6 * 3),
        (GEM(memory_ratio=0.5, reference="batch"), 6 * 2),
    ],
)
def test_each_step_takes_a_reference(make_learner, toy_tasks, method, passes):
    learner = make_learner(epochs=2)
    first, second = learned(learner, toy_tasks, method)
    assert first["projected"] == 0
    assert first["steps"] == second["steps"] == 6
    assert learner.cost.backward_batches == passes
    assert torch.isfinite(learner.weights.data).all()


@pytest.mark.parametrize("factory", [AGEM, GEM])
def test_a_step_against_the_memory_is_projected(make_learner, toy_tasks, monkeypatch, factory):
    """The references are replaced by the opposite of the gradient: nothing of it may be left."""
    learner, method = make_learner(), factory(memory_ratio=0.25)
    monkeypatch.setattr(Passes, "step_gradient", lambda self, terms: (-self.weights.grad, torch.zeros(())))
    monkeypatch.setattr(GEM, "references", lambda self, learner, replays: -learner.weights.grad[None])
    if factory is GEM:
        method.margin = 0.0
    learned(learner, toy_tasks[:1], method)
    learner.begin_task(1, toy_tasks[1])
    report = method.learn_task(learner, toy_tasks[1])
    assert report["projected"] == report["steps"] == 3
    assert float(learner.weights.grad.norm()) < 1e-5  # of the last step


def test_gem_keeps_to_each_earlier_task_by_itself(make_learner, toy_tasks, monkeypatch):
    seen = []
    monkeypatch.setattr(gem, "project", lambda gradient, references, margin: seen.append(references) or gradient)
    third = replace(toy_tasks[0], name="third", train=toy_tasks[0].train[::-1])
    learner = make_learner()
    learned(learner, [*toy_tasks, third], GEM(memory_ratio=0.25))
    assert [len(references) for references in seen] == [1] * 3 + [2] * 3
    assert not torch.allclose(*seen[-1], atol=1e-3)
