"""Attention as plain products: the values and gradients of PyTorch's kernel, within bfloat16's rounding."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from clbench.model.fast import fused_attention
from clbench.model.fast.fused_attention import attend, products
from tests.model.test_decoder import DECODERS, add_something, new_decoder

MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=3)


def tensors(dtype, length=7, keys=7):
    """Return query, key, value (6 heads, 2 for keys), and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, length, 8), (2, 2, keys, 8), (2, 2, keys, 8), (2, length, 6, 8)]
    made = [torch.randn(shape, generator=generator).to(torch.bfloat16).to(dtype) for shape in shapes]
    return [part.requires_grad_() for part in made[:3]], made[3]


def computed(function, dtype, mask, keys=7):
    """Return the result and the three gradients, in float32."""
    given, gradient = tensors(dtype, keys=keys)
    result = function(MODULE, *given, mask, scaling=0.3, dropout=0.0)[0]
    result.backward(gradient)
    return [part.detach().float() for part in (result, *(tensor.grad for tensor in given))]


@pytest.mark.parametrize("keys", [7, 12])
def test_values_and_gradients_are_those_of_the_kernel(keys):
    mask = None if keys == 7 else torch.ones(7, keys, dtype=torch.bool).tril(keys - 7)[None, None]
    exact = computed(sdpa_attention_forward, torch.float32, mask, keys)
    for ours, theirs in zip(computed(attend, torch.float32, mask, keys), exact, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    for ours, theirs, true in zip(
        computed(attend, torch.bfloat16, mask, keys),
        computed(sdpa_attention_forward, torch.bfloat16, mask, keys),
        exact,
        strict=True,
    ):
        assert (ours - true).norm() < 2 * (theirs - true).norm()


CHANGES = ["usual", "no gradient", "dropout", "large", "other mask", "not causal"]


@pytest.mark.parametrize("change", CHANGES)
def test_who_computes_what(change, monkeypatch):
    called = []
    monkeypatch.setattr(fused_attention, "products", lambda *given: called.append(given) or products(*given))
    given, _ = tensors(torch.bfloat16)
    module, mask = SimpleNamespace(is_causal=change != "not causal", num_key_value_groups=3), None
    if change == "no gradient":
        given = [part.detach() for part in given]
    if change == "large":
        monkeypatch.setattr(fused_attention, "MOST", 2 * 6 * 7 * 7 - 1)
    if change == "other mask":
        mask = torch.zeros(1, 1, 7, 7, dtype=torch.bfloat16)
    found = attend(module, *given, mask, scaling=0.3, dropout=0.1 if change == "dropout" else 0.0)[0]
    assert found.shape == (2, 7, 6, 8)
    assert len(called) == (change == "usual")


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_in_bfloat16_trains_by_it_until_it_is_detached(kind, llama, toy_tasks, monkeypatch):
    called = []
    monkeypatch.setattr(fused_attention, "products", lambda *given: called.append(given) or products(*given))
    learner = new_decoder(kind, llama, dtype=torch.bfloat16, attn_implementation="sdpa")
    add_something(learner, "lora")
    losses = []
    for most in (fused_attention.MOST, 0):
        monkeypatch.setattr(fused_attention, "MOST", most)
        losses.append(learner.loss(learner.feed.batch(toy_tasks[0].train[:4])))
    assert len(called) == 2 * learner.model.config.num_hidden_layers  # what the rows begin with, and the rest
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.01)
    losses[0].backward()
    assert learner.weights.grad.isfinite().all()
    assert learner.weights.grad.norm() > 0
    learner.attached.detach()
    assert learner.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")])
def test_what_is_float32_or_eager_stays(dtype, attention, llama):
    learner = new_decoder("llama", llama, dtype=dtype, attn_implementation=attention)
    add_something(learner, "lora")
    assert learner.model.config._attn_implementation == attention
