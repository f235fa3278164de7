"""ELLA: the numeric properties of its specification, with the real method."""

import pytest
import torch

from clbench.plugins.ella import ELLA, add_gradient, overlap
from clbench.plugins.inclora import IncLoRA
from tests.plugins.test_olora import drawn, learn


def pair(seed, ranks=2):
    return drawn((ranks, 5), seed), drawn((7, ranks), seed + 1)


def test_the_overlap_by_hand():
    """D = 2 [[1, 2], [0, 0]], P = 2 [[3, 0], [4, 5]]: one entry is in both, (2 * 6)^2."""
    new = (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]))
    old = (torch.eye(2), torch.tensor([[3.0, 0.0], [4.0, 5.0]]))
    assert overlap([new], [old], 2.0) == 144
    assert overlap([new, new], [old, old], 2.0) == 288
    assert overlap([new], [], 2.0) == 0  # the first task


def test_it_vanishes_on_disjoint_entries_and_knows_no_sign():
    new = (torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0], [1.0]]))
    apart = (torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[1.0], [2.0]]))
    assert overlap([new], [apart], 1.0) == 0
    (down, up), old = pair(0), pair(2, 4)
    once = overlap([(down, up)], [old], 1.0).item()
    assert overlap([(down, up)], [(-old[0], old[1])], 1.0).item() == pytest.approx(once, rel=1e-5)
    assert overlap([(3 * down, up)], [old], 1.0).item() == pytest.approx(9 * once, rel=1e-5)
    assert overlap([(down, up)], [(old[0], 3 * old[1])], 1.0).item() == pytest.approx(9 * once, rel=1e-5)


def test_the_gradient_is_that_of_the_penalty():
    (down, up), old = pair(0), pair(2, 4)
    down.requires_grad_()
    up.requires_grad_()
    (0.3 * overlap([(down, up)], [old], 2.0)).backward()
    found = (torch.ones(2, 5), torch.ones(7, 2))
    add_gradient([(down.detach(), up.detach())], [old], [found], 2.0, 0.3)
    assert torch.allclose(found[0] - 1, down.grad, rtol=1e-4)
    assert torch.allclose(found[1] - 1, up.grad, rtol=1e-4)


def test_an_entry_is_shrunk_the_more_the_more_it_was_changed():
    """min 1/2 ||D - G||^2 + strength/2 ||D * P||^2 is D = G / (1 + strength P^2); B is the identity, D = A."""
    goal, past = drawn((3, 4), 0), (drawn((3, 4), 1), torch.eye(3))
    down, up = torch.zeros(3, 4), torch.eye(3)
    for _ in range(2000):
        gradient = (down - goal, torch.zeros(3, 3))
        add_gradient([(down, up)], [past], [gradient], 1.0, 0.5 * 4.0)
        down = down - 0.02 * gradient[0]
    assert torch.allclose(down, goal / (1 + 4.0 * past[0].square()), atol=1e-5)


def test_without_strength_it_is_inclora_bitwise_and_with_it_overlaps_less(make_learner, toy_tasks):
    plain, _ = learn(make_learner, toy_tasks, IncLoRA())
    weights = plain.weights.copy()
    free, reports = learn(make_learner, toy_tasks, ELLA(strength=0))
    assert torch.equal(free.weights.data, weights)
    _, held = learn(make_learner, toy_tasks, ELLA(strength=1e5))
    assert held[0] == reports[0]
    assert held[0]["overlap"] == 0
    assert 0 < held[1]["overlap"] < 0.5 * reports[1]["overlap"]
