"""Norms with a faster gradient: values to the last bit, first and second gradients of the formula."""

import importlib

import pytest
import torch

from clbench.model.backbone import load_backbone
from clbench.model.fast.fused_norms import NORMS, RMSNorm, fuse_norms, restore_norms


def norms_of(model):
    return [part for part in model.modules() if type(part).__name__ in NORMS]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_values_are_the_models_own_and_gradients_agree(tiny_folder, llama_folder, kind):
    model = load_backbone(str(llama_folder if kind == "decoder" else tiny_folder), "cpu").model
    norm = norms_of(model)[0]
    norm.weight.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = []
    for fused in (False, True):
        if fused:
            fuse_norms(model)
        y = norm(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert "RMSNorm" in type(found[1][0].grad_fn).__name__
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("name", sorted(NORMS))
def test_every_norm_that_is_named_computes_by_the_formula(name):
    family = name.removesuffix("LayerNorm").removesuffix("RMSNorm").lower()
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    norm = getattr(module, name)(4, eps=0.1).requires_grad_(False)
    norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = norm(x)
    fuse_norms(norm)
    y = norm(x)
    assert "RMSNorm" in type(y.grad_fn).__name__
    assert torch.equal(y, own)


def test_gradients_are_those_of_the_formula():
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.tensor([0.5, 1.0, 2.0, -1.0], dtype=torch.float64)
    expected = weight * x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(RMSNorm.apply(x, weight, 0.1), expected)
    assert torch.autograd.gradcheck(lambda x: RMSNorm.apply(x, weight, 0.1), x)
    assert torch.autograd.gradgradcheck(lambda x: RMSNorm.apply(x, weight, 0.1), x)


def test_a_trained_norm_keeps_its_own_arithmetic(tiny_folder):
    model = load_backbone(str(tiny_folder), "cpu").model
    norm = norms_of(model)[0]
    norm.weight.requires_grad_(True)
    fuse_norms(model)
    norm(torch.randn(2, 32, requires_grad=True)).sum().backward()
    assert norm.weight.grad is not None


def test_a_learner_leaves_the_backbone_as_it_was(make_learner, backbone):
    learner = make_learner()
    assert len(list(norms_of(learner.model))) > 1
    assert all("forward" in vars(norm) for norm in norms_of(learner.model))
    learner.attached.detach()
    assert not any("forward" in vars(norm) for norm in norms_of(backbone.model))
    restore_norms(backbone.model)  # once more does no harm


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pytorchs_kernel_on_a_gpu_gives_the_models_own_values(tiny_folder, dtype):
    model = load_backbone(str(tiny_folder), "cpu").model.to("cuda", dtype)
    norm = norms_of(model)[0]
    x = torch.randn(2, 3, 32, device="cuda", dtype=dtype)
    own = norm(x)
    fuse_norms(model)
    torch.testing.assert_close(norm(x), own)
