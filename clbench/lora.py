"""LoRA layers in fewer operations than PEFT's own: y = W x + s * B A x, where the addition is part of the last product."""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import Tensor
from torch.nn import functional

ADAPTER = "default"


def fuse_lora(model: Any) -> None:
    """Let every plain LoRA layer of the model compute as `FusedLora`; quantised layers keep PEFT's own arithmetic."""
    for layer in model.modules():
        if type(layer) is Linear:  # not a subclass
            layer.lora_variant[ADAPTER] = FusedLora()
            layer.cast_input_dtype_enabled = False


class FusedLora(LoraVariant):
    """What one LoRA layer computes; PEFT calls it in place of its own arithmetic.

    The products are in the type of the layer's input, as autocast has them: where the frozen weights are bfloat16, float32
    LoRA weights are rounded for the product, and their gradients and updates are float32.
    """

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: object) -> Tensor:
        """Return the layer's output from that of the frozen base layer."""
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        scaling, dropped = module.scaling[active_adapter], module.lora_dropout[active_adapter](x)
        if down._forward_hooks or up._forward_hooks:  # someone looks at the inner products
            return result + up(down(dropped.to(down.weight.dtype))).to(result.dtype) * scaling
        hidden = functional.linear(dropped, down.weight.to(x.dtype))
        total = torch.addmm(
            result.view(-1, result.shape[-1]),
            hidden.view(-1, hidden.shape[-1]),
            up.weight.to(x.dtype).t(),
            alpha=scaling,
        )
        return total.view(result.shape)

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the base weight, a copy, with the adapter folded in, as PEFT does."""
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)
