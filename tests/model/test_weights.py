"""The flat view of the weights."""

import pytest
import torch
from torch import nn

from clbench.model.weights import Weights


def small_module() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].bias.requires_grad_(False)
    return module


def test_vector_and_parameters_are_the_same_storage():
    module = small_module()
    weights = Weights(module)
    assert len(weights) == 12 + 8 + 2
    weights.assign(torch.arange(22.0))
    assert module[0].weight.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert module[2].bias.tolist() == [20, 21]
    with torch.no_grad():
        module[2].bias.fill_(7)
    assert weights.data[20:].tolist() == [7, 7]


def test_gradients_accumulate_into_the_vector_and_zero_in_place():
    module = small_module()
    weights = Weights(module)
    for times in (1, 2):
        module(torch.ones(1, 3)).sum().backward()
        expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad])
        assert torch.equal(weights.grad, expected)
        assert weights.grad[20:].tolist() == [times, times]  # d(sum)/d(bias) = 1 a pass
    weights.zero_grad()
    assert module[2].bias.grad.tolist() == [0, 0]


def test_one_optimizer_over_the_vector_equals_one_over_the_parameters():
    flat, plain = small_module(), small_module()
    weights = Weights(flat)
    optimizers = [
        torch.optim.AdamW([weights.vector], lr=0.1),
        torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=0.1),
    ]
    for step in range(3):
        for module, optimizer in zip((flat, plain), optimizers, strict=True):
            module(torch.full((1, 3), float(step + 1))).square().sum().backward()
            optimizer.step()
        weights.zero_grad()
        optimizers[1].zero_grad()
    expected = torch.cat([p.detach().flatten() for p in plain.parameters() if p.requires_grad])
    assert torch.allclose(weights.data, expected, atol=1e-6)


def test_a_term_written_in_the_vector_reaches_the_gradient():
    module = small_module()
    weights = Weights(module)
    weights.vector.square().sum().backward()
    assert torch.allclose(weights.grad, 2 * weights.data)


def test_views_have_names_and_shapes():
    module = small_module()
    weights = Weights(module)
    views = weights.views(torch.arange(22.0))
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "0.weight": (4, 3),
        "2.weight": (2, 4),
        "2.bias": (2,),
    }
    assert views["2.bias"].tolist() == [20, 21]


def test_nothing_trainable_is_an_error():
    with pytest.raises(ValueError, match="trainable"):
        Weights(nn.Linear(2, 2).requires_grad_(False))
