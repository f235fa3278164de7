"""Attention for training decoders in bfloat16 on a CPU, as plain products: a third of the time of PyTorch's kernel.

Replaces `sdpa_attention_forward` of transformers where a gradient is to follow; that both agree is tested in
tests/model/fast/test_fused_attention.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME, USUAL = "clbench_products", "sdpa"
MOST = 2**23  # attention weights of a layer, which are kept for the backward pass; the kernel computes them again


def fuse_attention(model: Any) -> None:
    """Let a decoder whose weights are bfloat16 on a CPU compute by `attend` until `restore_attention`."""
    config = model.config
    if config.is_encoder_decoder or config._attn_implementation != USUAL or model.dtype != torch.bfloat16:
        return
    if model.device.type == "cpu":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def restore_attention(model: Any) -> None:
    """Let the model compute attention as it came."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation(USUAL)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Return what the heads read, (rows, tokens, heads, width).

    Args:
        query: (rows, heads, tokens, width); key and value may have fewer heads, each for several that follow one another.
        attention_mask: (rows or 1, 1, tokens, keys), whether a query sees a key; without, it sees no later ones.
    """
    rows, heads, length, _ = query.shape
    keys = key.shape[2]
    masked = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    special = more.get("dropout") or more.get("position_bias") is not None or more.get("is_causal") is False
    special = special or not masked or not module.is_causal or torch.compiler.is_compiling()
    if special or not query.requires_grad or rows * heads * length * keys > MOST:
        usual: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return usual
    seen = attention_mask
    if seen is None:
        seen = torch.ones(1, 1, length, keys, dtype=torch.bool).tril(keys - length)
    return products(query, key, value, seen, more.get("scaling")).transpose(1, 2).contiguous(), None


def products(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float | None) -> Tensor:
    """Return softmax(s * Q K^T) V of what is `seen`, (rows, heads, tokens, width); no key is copied for the heads of a group."""
    rows, heads, length, width = query.shape
    groups, keys = key.shape[1:3]
    scaled = query * (width**-0.5 if scaling is None else scaling)
    scores = scaled.reshape(rows, groups, -1, width) @ key.transpose(2, 3)
    scores = scores.view(rows, heads, length, keys).masked_fill(~seen, -torch.inf)
    weights = scores.softmax(-1).view(rows, groups, -1, keys)  # computed in float32, kept in the type of the scores
    return (weights @ value).view(rows, heads, length, -1)
