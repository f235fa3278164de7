"""LoRA layers in fewer operations than PEFT's own: y = W x + s * B A x as one step of the gradient's graph."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import Tensor, nn
from torch.nn import functional

ADAPTER = "default"


def fuse_lora(model: Any) -> None:
    """Let every plain LoRA layer of the model compute by `LowRankSum`, until `restore_lora`; quantised ones keep PEFT's own.

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


def _readers(model: Any) -> list[list[Linear]]:
    """Return the plain LoRA layers, those of one module that read the same tensor in one list; a pass over a token shows it."""
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
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    decoder = {"decoder_input_ids": token} if model.config.is_encoder_decoder else {}
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(input_ids=token, use_cache=False, **decoder)
    finally:
        model.train(training)
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
        self._read: weakref.ref[Tensor] | None = None
        self._waiting: dict[Linear, Tensor] = {}

    def __call__(self, layer: Linear, x: Tensor) -> Tensor:
        """Return the output of one of the layers for an input (..., inputs)."""
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in self._products[layer])
        if hooked or layer.merged or layer.disable_adapters:
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
        down = downs[0].weight if len(layers) == 1 else torch.cat([part.weight for part in downs])
        weights = [part.weight.to(x.dtype) for part in ups]
        frozen = [tensor for base in bases for tensor in (base.weight, base.bias)]
        result: tuple[Tensor, ...] = LowRankSum.apply(
            x, dropped, down.to(x.dtype), layers[0].scaling[ADAPTER], *weights, *frozen
        )
        return result


class LowRankSum(torch.autograd.Function):
    """y_i = W_i x + b_i + s * B_i A_i z for layers i = 1 ... n that read the same x and z; W and b are frozen.

    The gradients of x add up in place. They can be differentiated again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, z: Tensor | None, down: Tensor, scaling: float, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs, each (..., outputs of the layer).

        Args:
            x: input of the frozen weights, (..., inputs).
            z: input of the adapters, where it is not x.
            down: all A below each other, (n * rank, inputs).
            weights: the n B's (outputs, rank), then W_1, b_1 (or None), W_2, b_2 and so on.
        """
        count, rows = len(weights) // 3, x.flatten(0, -2)
        low = low_products(x if z is None else z, down, scaling)
        found = []
        for number, part in enumerate(low.chunk(count)):
            base, bias = weights[count + 2 * number : count + 2 * number + 2]
            y = functional.linear(rows, base, bias).addmm_(part.t(), weights[number].t())
            found.append(y.view(*x.shape[:-1], -1))
        ctx.save_for_backward(x, z, down, low, *weights[:count], *weights[count::2])
        ctx.scaling = scaling
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the forward pass's arguments."""
        x, z, down, low, *weights = ctx.saved_tensors
        count, read = len(gradients), x if z is None else z
        if torch.is_grad_enabled():  # someone is to differentiate this: `low` with its graph
            low = low_products(read, down, ctx.scaling)
        of_x, of_low, of_ups = None, [], []
        for number, part in enumerate(low.chunk(count)):
            gradient = gradients[number].flatten(0, -2)
            of_low.append(weights[number].t() @ gradient.t())
            of_ups.append((part @ gradient).t())
            if ctx.needs_input_grad[0]:
                base = weights[count + number]
                of_x = gradient @ base if of_x is None else of_x.addmm_(gradient, base)
        of_product = (of_low[0] if count == 1 else torch.cat(of_low)) * ctx.scaling
        of_down, of_z = of_product @ read.flatten(0, -2), None
        if ctx.needs_input_grad[1]:
            of_z = (of_product.t() @ down).view(x.shape)
        if of_x is not None:
            of_x = (of_x if z is not None else of_x.addmm_(of_product.t(), down)).view(x.shape)
        return of_x, of_z, of_down, None, *of_ups, *[None] * (2 * count)


def low_products(z: Tensor, down: Tensor, scaling: float) -> Tensor:
    """Return s * A z, shape (n * rank, tokens): the product in this layout is faster than in the other."""
    return (down @ z.flatten(0, -2).t()) * scaling
