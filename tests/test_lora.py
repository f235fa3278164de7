"""LoRA layers in fewer operations: the numbers are those of the definition and of PEFT's own arithmetic."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from clbench.lora import ADAPTER, fuse_lora


def small_model(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A PEFT model around one linear layer of 3 inputs and 2 outputs, rank 1, scaling 4."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(3, 2, bias=False)).to(dtype)
    model = get_peft_model(base, LoraConfig(r=1, lora_alpha=4, lora_dropout=dropout, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.base_layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
    layer.lora_A[ADAPTER].weight.data.copy_(torch.tensor([[1.0, -1.0, 0.5]]))
    layer.lora_B[ADAPTER].weight.data.copy_(torch.tensor([[0.25], [-0.5]]))
    return model


def test_the_output_is_that_of_the_definition():
    model = small_model()
    fuse_lora(model)
    x = torch.tensor([[[2.0, 1.0, 4.0]]])  # W x = (10, 1); A x = 3; s B A x = 4 * 3 * (0.25, -0.5) = (3, -6)
    assert model(x).tolist() == [[[13.0, -5.0]]]


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_pefts(dropout, watched):
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1))
    seen = []
    for fused in (False, True):
        model = small_model(dropout)
        if fused:
            fuse_lora(model)
        if watched:
            model.base_model.model[0].lora_B[ADAPTER].register_forward_hook(lambda *_: None)
        torch.manual_seed(2)
        given = x.clone().requires_grad_()
        output = model.train()(given)
        output.square().sum().backward()
        seen.append([output, given.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    for theirs, ours in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_hook_on_the_inner_products_sees_them():
    model, seen = small_model(), []
    fuse_lora(model)
    model.base_model.model[0].lora_A[ADAPTER].register_forward_hook(lambda *words: seen.append(words[-1].item()))
    assert model(torch.tensor([[[2.0, 1.0, 4.0]]])).tolist() == [[[13.0, -5.0]]]
    assert seen == [3.0]


def test_bfloat16_layers_give_float32_gradients():
    model = small_model(dtype=torch.bfloat16)
    fuse_lora(model)
    output = model(torch.tensor([[[2.0, 1.0, 4.0]]], dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert output.tolist() == [[[13.0, -5.0]]]
    output.sum().backward()
    layer = model.base_model.model[0]
    assert layer.lora_B[ADAPTER].weight.grad.dtype == torch.float32
    assert layer.lora_B[ADAPTER].weight.grad.tolist() == [[12.0], [12.0]]


def test_the_merged_layer_is_the_same_map():
    model = small_model()
    fuse_lora(model)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    apart = model(x)
    layer = model.base_model.model[0]
    layer.merge(safe_merge=True)
    torch.testing.assert_close(layer.base_layer(x), apart)
