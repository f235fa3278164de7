"""LoRA layers in fewer operations than PEFT's own: y = W x + s * B A x, with or without rank blocks, as one step of the graph.

Replaces `forward` of PEFT's Linear, and `BlockLayer.forward` where there are rank blocks; that both agree is tested in
tests/model/fast/test_fused_lora.py.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from clbench.model.backbone import pass_a_token
from clbench.model.lora_blocks import ADAPTER, BlockLayer


def fuse_lora(model: Any) -> None:
    """Let every LoRA layer of the model compute by `LowRankSum`, until `restore_lora`; quantised ones keep PEFT's own.

    Layers that read the same tensor (query, key and value; the two halves of a gated layer) are computed together.
    """
    for layers in _readers(model):
        together = Together(layers)
        for layer in layers:
            layer.forward = partial(together, layer)


def restore_lora(model: nn.Module) -> None:
    """Let LoRA layers compute by PEFT's own arithmetic, as they came."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            vars(layer).pop("forward", None)


def has_hooks(part: nn.Module) -> bool:
    """Return whether anyone hooked into a module's own pass, forwards or backwards."""
    forwards, backwards = (
        part._forward_hooks or part._forward_pre_hooks,
        part._backward_hooks or part._backward_pre_hooks,
    )
    return bool(forwards or backwards)


def _readers(model: Any) -> list[list[Linear]]:
    """Return the LoRA layers, those of one module that read the same tensor in one list; a pass over a token shows it."""
    parents = {
        layer: parent
        for parent in model.modules()
        for layer in parent.children()
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear
    }
    if not parents:
        return []
    seen: dict[tuple[nn.Module, int], list[Linear]] = defaultdict(list)
    kept = []  # so that no two tensors have the same id

    def note(layer: Linear, inputs: tuple[Tensor]) -> None:
        kept.append(inputs[0])
        seen[parents[layer], id(inputs[0])].append(layer)

    handles = [layer.register_forward_pre_hook(note) for layer in parents]
    try:
        pass_a_token(model)
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values())


class Together:
    """The LoRA layers that read one tensor: the first one that is asked computes for all, the others' outputs wait for them.

    PEFT's own arithmetic stands in where an adapter is merged or off, or where someone hooked into one of a layer's products.
    """

    def __init__(self, layers: Sequence[Linear]) -> None:
        self.layers = layers
        self._products = {
            layer: (layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]) for layer in layers
        }
        self._blocks: dict[Linear, BlockLayer] = {
            layer: layer.lora_variant[ADAPTER] for layer in layers if ADAPTER in layer.lora_variant
        }
        self._read: weakref.ref[Tensor] | None = None
        self._waiting: dict[Linear, Tensor] = {}

    def __call__(self, layer: Linear, x: Tensor) -> Tensor:
        """Return the output of one of the layers for an input (..., inputs)."""
        if any(has_hooks(part) for part in self._products[layer]) or layer.merged or layer.disable_adapters:
            output: Tensor = Linear.forward(layer, x)
            return output
        dropped = layer.lora_dropout[ADAPTER](x)
        if dropped is not x:  # each layer drops entries of its own
            return self._compute([layer], x, dropped)[0]
        if len(self.layers) == 1 or torch.compiler.is_compiling():
            return self._compute([layer], x)[0]
        if layer not in self._waiting or self._read is None or self._read() is not x:
            self._read = weakref.ref(x)
            self._waiting = dict(zip(self.layers, self._compute(self.layers, x), strict=True))
        return self._waiting.pop(layer)

    def _compute(self, layers: Sequence[Linear], x: Tensor, dropped: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the layers' outputs.

        The products are in the type of the input, as autocast has them: where the frozen weights are bfloat16, float32 LoRA
        weights are rounded for the product, and their gradients and updates are float32.

        Args:
            x: input of the frozen weights, (..., inputs).
            dropped: input of the adapters, where it is another one.
        """
        bases, downs, ups = zip(*(self._products[layer] for layer in layers), strict=True)
        weights = [part.weight.to(x.dtype) for part in ups]
        beside: Beside = (None, None, [None] * len(layers), False)
        if self._blocks:
            beside = _beside([self._blocks[layer] for layer in layers], x)
        shares, past, past_ups, isolated = beside
        result: tuple[Tensor, ...] = LowRankSum.apply(  # type: ignore[no-untyped-call]
            x, dropped, shares, _below([part.weight for part in downs]).to(x.dtype), past, layers[0].scaling[ADAPTER],
            isolated, *weights, *past_ups, *(base.weight for base in bases), *(base.bias for base in bases),
        )  # fmt: skip
        return result


Beside = tuple[Tensor | None, Tensor | None, Sequence[Tensor | None], bool]


def _beside(blocks: Sequence[BlockLayer], x: Tensor) -> Beside:
    """Return what `LowRankSum` is given of the layers' blocks: g, frozen A, frozen B's, and whether those are isolated."""
    shares = None
    if blocks[0].blocks.gate is not None:
        shares = _below([block.shares(x).expand(*x.shape[:-1], -1).flatten(0, -2).t() for block in blocks])
    frozen = [block.past for block in blocks if block.past is not None]
    if not frozen:
        return shares, None, [None] * len(blocks), False
    downs, ups = zip(*frozen, strict=True)
    return shares, _below(downs).to(x.dtype), [up.to(x.dtype) for up in ups], blocks[0].blocks.isolated


def _below(parts: Sequence[Tensor]) -> Tensor:
    """Return the layers' matrices below each other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class LowRankSum(torch.autograd.Function):
    """y_i = W_i x + b_i + s * B_i (g_i * A_i z) for layers i = 1 ... n that read the same x and z; W and b are frozen.

    The first ranks of A and B may be frozen: they get no gradient, and isolated they read x instead of z and give it none. g,
    one weight a block and token, is 1 without `shares`. The gradients of x add up in place. They can be differentiated again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor | None,
        shares: Tensor | None,
        down: Tensor,
        past: Tensor | None,
        scaling: float,
        isolated: bool,
        *weights: Any,
    ) -> tuple[Tensor, ...]:
        """Return the outputs, each (..., outputs of the layer).

        Args:
            x: input of the frozen weights, (..., inputs).
            z: input of the adapters, where it is not x.
            shares: all g below each other, (n * blocks, tokens); a layer's blocks have one rank, frozen ones come first.
            down: all trained A below each other, (n * rank, inputs).
            past: all frozen A below each other, (n * frozen ranks, inputs).
            weights: n trained B's (outputs, rank), n frozen B's (or None), n W's, n b's (or None).
        """
        count, rows = len(weights) // 4, x.flatten(0, -2)
        low = low_products(x, z, down, past, isolated, count) * scaling
        found = []
        for number, part in enumerate(weighted(low, shares).chunk(count)):
            up, past_up, base, bias = weights[number::count]
            y = functional.linear(rows, base, bias).addmm_(part.t(), joined(past_up, up).t())
            found.append(y.view(*x.shape[:-1], -1))
        ctx.save_for_backward(x, z, shares, down, past, low, *weights[: 3 * count])
        ctx.scaling, ctx.isolated = scaling, isolated
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the forward pass's arguments."""
        x, z, shares, down, past, low, *weights = ctx.saved_tensors
        count, read = len(gradients), x if z is None else z
        if torch.is_grad_enabled():  # someone is to differentiate this: `low` with its graph
            low = low_products(x, z, down, past, ctx.isolated, count) * ctx.scaling
        rank = len(down) // count
        of_x, of_parts, of_ups, of_shares, of_z = None, [], [], None, None
        for number, part in enumerate(weighted(low, shares).chunk(count)):
            gradient, (up, past_up, base) = gradients[number].flatten(0, -2), weights[number::count]
            of_parts.append(joined(past_up, up).t() @ gradient.t())
            of_ups.append((part[-rank:] @ gradient).t())
            if ctx.needs_input_grad[0]:
                of_x = gradient @ base if of_x is None else of_x.addmm_(gradient, base)
        of_low = _below(of_parts)
        if shares is not None:
            of_shares = (of_low * low).view(len(shares), -1, low.shape[1]).sum(1)
        through, of_product = down, weighted(of_low, shares) * ctx.scaling
        of_trained = of_product.view(count, -1, low.shape[1])[:, -rank:].flatten(0, 1)
        of_down = of_trained @ read.flatten(0, -2)
        if past is not None and not ctx.isolated:
            through = by_layer(past, down, count)
        else:
            of_product = of_trained
        if ctx.needs_input_grad[1]:
            of_z = (of_product.t() @ through).view(x.shape)
        if of_x is not None:
            of_x = (of_x if z is not None else of_x.addmm_(of_product.t(), through)).view(x.shape)
        return of_x, of_z, of_shares, of_down, None, None, None, *of_ups, *[None] * (3 * count)


def low_products(x: Tensor, z: Tensor | None, down: Tensor, past: Tensor | None, isolated: bool, count: int) -> Tensor:
    """Return A z, shape (n * ranks, tokens): the product in this layout is faster than in the other."""
    read = (x if z is None else z).flatten(0, -2).t()
    if past is None:
        return down @ read
    if isolated:
        return by_layer(past @ x.detach().flatten(0, -2).t(), down @ read, count)
    return by_layer(past, down, count) @ read


def by_layer(past: Tensor, trained: Tensor, count: int) -> Tensor:
    """Return the rows of both layer by layer, a layer's frozen ones first."""
    return torch.cat([part.view(count, -1, part.shape[1]) for part in (past, trained)], 1).flatten(0, 1)


def joined(past: Tensor | None, trained: Tensor) -> Tensor:
    """Return a layer's B with the frozen columns, if any, first."""
    return trained if past is None else torch.cat([past, trained], 1)


def weighted(low: Tensor, shares: Tensor | None) -> Tensor:
    """Return the rows of each block times its shares (n * blocks, tokens)."""
    return low if shares is None else (low.view(len(shares), -1, low.shape[1]) * shares[:, None]).flatten(0, 1)
