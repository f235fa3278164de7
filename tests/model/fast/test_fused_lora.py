"""LoRA layers in fewer operations: the numbers are those of the definition and of PEFT's own arithmetic."""

import gc
import weakref
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from clbench.model.fast.fused_lora import ADAPTER, LowRankSum, Together

X = torch.tensor([[[2.0, 1.0, 4.0]]])


def small_model(dropout: float = 0.0, dtype: torch.dtype = torch.float32, fused: bool = True, bias: bool = False):
    """A PEFT model around two linear layers of 3 inputs and 2 outputs that read the same; rank 1, scaling 4."""
    torch.manual_seed(0)
    base = nn.ModuleList([nn.Linear(3, 2, bias=bias) for _ in range(2)]).to(dtype)
    model = get_peft_model(base, LoraConfig(r=1, lora_alpha=4, lora_dropout=dropout, target_modules=["0", "1"]))
    layers = list(model.base_model.model)
    layers[0].base_layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
    for layer in layers:
        layer.lora_A[ADAPTER].weight.data.copy_(torch.tensor([[1.0, -1.0, 0.5]]))
        layer.lora_B[ADAPTER].weight.data.copy_(torch.tensor([[0.25], [-0.5]]))
    if fused:
        together = Together(layers)
        for layer in layers:
            layer.forward = partial(together, layer)
    return model, layers


def test_the_output_is_that_of_the_definition():
    _, layers = small_model()  # W x = (10, 1); A x = 3; s B A x = 4 * 3 * (0.25, -0.5) = (3, -6)
    assert layers[0](X).tolist() == [[[13.0, -5.0]]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_pefts(dropout, watched, bias):
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1))
    seen = []
    for fused in (False, True):
        model, layers = small_model(dropout, fused=fused, bias=bias)
        if watched:
            layers[1].lora_B[ADAPTER].register_forward_hook(lambda *_: None)
        torch.manual_seed(2)
        given = x.clone().requires_grad_()
        found = [layer.train()(given) for layer in layers]
        sum((number + 1) * output.square().sum() for number, output in enumerate(found)).backward()
        seen.append([*found, given.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert len(seen[0]) == len(seen[1]) == 7
    for theirs, ours in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


def by_the_formula(x, z, shares, down, past, scaling, isolated, *weights):
    """The definition of LowRankSum, block by block, two layers, one rank a block."""
    z, outputs = x if z is None else z, []
    for number in range(2):
        up, past_up, base, bias = weights[number::2]
        rows = [(row, column, z) for row, column in zip(down.chunk(2)[number], up.t(), strict=True)]
        if past is not None:
            read = x.detach() if isolated else z
            frozen = zip(past.chunk(2)[number], past_up.t(), strict=True)
            rows = [(row, column, read) for row, column in frozen] + rows
        weight = [1.0] * len(rows) if shares is None else shares.chunk(2)[number].view(len(rows), *x.shape[:-1], 1)
        products = [w * (read @ row)[..., None] * column for w, (row, column, read) in zip(weight, rows, strict=True)]
        outputs.append(nn.functional.linear(x, base, bias) + scaling * sum(products))
    return outputs


@pytest.mark.parametrize("past", ["none", "frozen", "isolated"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_first_and_second_gradients_are_those_of_the_formula(dropped, gated, past):
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rank, frozen_rank = 2, 0 if past == "none" else 3
    x, down, ups = numbers(2, 3, 4), numbers(2 * rank, 4), [numbers(5, rank), numbers(6, rank)]
    z = numbers(2, 3, 4) if dropped else None
    shares = numbers(2 * (rank + frozen_rank), 6) if gated else None
    old_down = numbers(2 * frozen_rank, 4) if frozen_rank else None
    old_ups = [numbers(5, frozen_rank), numbers(6, frozen_rank)] if frozen_rank else [None, None]
    given = [x, z, shares, down, old_down, 4.0, past == "isolated", *ups, *old_ups, numbers(5, 4), numbers(6, 4)]
    given += [None, numbers(6)]
    trained = [tensor.requires_grad_() for tensor in (x, z, shares, down, *ups) if tensor is not None]
    seen = []
    for compute in (by_the_formula, LowRankSum.apply):
        outputs = compute(*given)
        first = torch.autograd.grad(sum(output.pow(3).sum() for output in outputs), trained, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), trained)
        seen.append([*outputs, *first, *second])
    for theirs, ours in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_input_without_gradient_gets_none():
    model, layers = small_model()
    (layers[0](X).sum() + layers[1](X).sum()).backward()
    assert X.grad is None
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def computation(output):
    """The node of the gradient's graph that computed a layer's output."""
    waiting = [output.grad_fn]
    while not waiting[0].name().startswith("LowRankSum"):
        waiting = [node for node, _ in waiting[0].next_functions if node is not None] + waiting[1:]
    return waiting[0]


def test_layers_of_one_input_are_computed_once():
    _, layers = small_model()
    first, second = (layer(X) for layer in layers)
    assert computation(first) is computation(second)
    assert not torch.equal(first, second)
    alone = layers[1](X.clone())  # the other one's output for it is waiting, and nobody asks for it
    assert computation(alone) is not computation(second)
    layers[1].lora_B[ADAPTER].weight.data.mul_(2)
    anew = layers[1](X)
    assert not torch.equal(anew, alone)
    assert computation(anew) is not computation(alone)


def test_nothing_is_held_once_all_have_been_asked():
    _, layers = small_model()
    x = X.clone()
    layers[0](x), layers[1](x)
    together = layers[0].forward.func
    del x
    assert together._read() is None
    assert together._waiting == {}


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_which_layers_read_the_same_tensor(make_learner, make_decoder, kind):
    learner = (make_decoder if kind == "decoder" else make_learner)(lora_targets="all-linear", lora_dropout=0.0)
    names = {layer: name for name, layer in learner.model.named_modules() if isinstance(layer, Linear)}
    groups = {tuple(names[layer].split(".")[-1] for layer in layer.forward.func.layers) for layer in names}
    if kind == "decoder":
        assert groups == {("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)}
    else:
        assert groups == {("q", "k", "v"), ("q",), ("k", "v"), ("o",), ("wi_0", "wi_1"), ("wo",)}


def test_a_detached_adapter_is_let_go_at_once(make_learner):
    learner = make_learner(lora_dropout=0.0)
    layer = weakref.ref(next(part for part in learner.model.modules() if isinstance(part, Linear)))
    gc.disable()
    try:
        learner.attached.detach()
        assert layer() is None
    finally:
        gc.enable()


def test_hooks_on_a_layers_products_see_them_and_their_gradients():
    _, layers = small_model()
    seen = []
    layers[0].lora_A[ADAPTER].register_forward_hook(lambda *words: seen.append(words[-1]))
    layers[0].base_layer.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    assert layers[0](X).tolist() == [[[23.0, -4.0]]]
    assert [tensor.item() for tensor in seen] == [3.0]
    assert seen[0].requires_grad


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
@pytest.mark.parametrize("part", ["base_layer", "lora_A", "lora_B"])
def test_a_hook_of_any_kind_on_any_product_is_called(kind, part):
    _, layers = small_model()
    product, calls = getattr(layers[0], part), []
    handle = getattr(product if part == "base_layer" else product[ADAPTER], f"register_{kind}")(
        lambda *_: calls.append(kind)
    )
    x = X.clone().requires_grad_()
    layers[0](x).sum().backward()
    assert calls == [kind]
    handle.remove()
    assert "LowRankSum" in type(layers[0](x).grad_fn).__name__


def test_bfloat16_layers_give_float32_gradients():
    _, layers = small_model(dtype=torch.bfloat16)
    output = layers[0](X.bfloat16())
    assert output.dtype == torch.bfloat16
    assert output.tolist() == [[[13.0, -5.0]]]
    output.sum().backward()
    assert layers[0].lora_B[ADAPTER].weight.grad.dtype == torch.float32
    assert layers[0].lora_B[ADAPTER].weight.grad.tolist() == [[12.0], [12.0]]


def test_the_merged_layer_is_the_same_map():
    _, (layer, _) = small_model()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    apart = layer(x)
    layer.merge(safe_merge=True)
    torch.testing.assert_close(layer.base_layer(x), apart)
    torch.testing.assert_close(layer(x), apart)
