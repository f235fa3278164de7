"""Decoder-only models called like encoder-decoders: a batch of prompts and of labels in, the loss of the labels out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from clbench.encoding.batches import IGNORED

Call = tuple[tuple[Any, ...], dict[str, Any]]
OURS = ("attention_mask", "labels", "labelled", "together")  # arguments that the model itself does not see
FEW = 16  # tokens that are not worth a pass of their own


def read_labels(model: Any) -> None:
    """Let the model read the labels that it is called with after the prompts, as one sequence.

    From then on `model(input_ids=..., attention_mask=..., labels=...)` takes prompts (batch, input), padded anywhere, and
    labels (batch, target), padded on the right; `inputs_embeds` may stand for `input_ids`. Its logits are those of the labels
    alone, (batch, target, vocabulary); with `labelled`, positions among the flattened labels, of those, (positions,
    vocabulary). It computes no loss. With `together=True`, what all rows begin with is computed once, as one row, which changes
    no more than rounding as long as nothing tells rows or passes apart. Calls without labels, as in generation, stay as they are.
    """
    reader = LabelReader()
    reader.watch(model.get_output_embeddings())
    model.register_forward_pre_hook(reader.join, with_kwargs=True)


class LabelReader:
    """Joins prompts and labels before the model reads them, and leaves its head only the states before each label.

    All padding moves to the right, where no token sees it, since none sees what comes after it. So no mask is needed, each
    token's position is its column, and attention has no row without a key, for which some kernels return no finite gradient.
    The vocabulary is wide, hence the head is one product over the labels' states, which stand together in memory.
    """

    def __init__(self) -> None:
        self._wanted: Tensor | None = None  # by the head, among the flattened states
        self._head: nn.Module | None = None
        self._handle: RemovableHandle | None = None

    def join(self, model: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Call | None:
        """Return what the model is to be called with; None for a call without labels."""
        self._wanted = None
        self.watch(model.get_output_embeddings())
        labels = named.get("labels")
        if labels is None:
            return None
        prompt, answer = named["attention_mask"], labels.masked_fill(labels == IGNORED, 0)  # any token: none sees it
        order = tokens_first(torch.cat([prompt, (labels != IGNORED).to(prompt)], 1))
        joined = {name: value for name, value in named.items() if name not in OURS}
        if named.get("inputs_embeds") is None:
            joined["input_ids"] = torch.cat([named["input_ids"], answer], 1).gather(1, order)
        else:
            tokens = model.get_input_embeddings()(answer)
            sequence = torch.cat([named["inputs_embeds"], tokens.to(named["inputs_embeds"])], 1)
            joined["inputs_embeds"] = sequence.take_along_dim(order[..., None], 1)
        rows, length, read = *order.shape, 0
        if named.get("together") and "input_ids" in joined:
            joined |= read_once(model, joined["input_ids"], int(prompt.sum(1).min()) - 1)
            read = length - joined["input_ids"].shape[1]
        begin = torch.arange(rows, device=order.device) * (length - read) + prompt.sum(1) - 1 - read
        wanted = begin[:, None] + torch.arange(labels.shape[1], device=order.device)
        self._wanted = wanted if named.get("labelled") is None else wanted.flatten()[named["labelled"]]
        return arguments, joined

    def watch(self, head: nn.Module) -> None:
        """Hook into the head; PEFT puts another module in its place where the head has LoRA."""
        if head is self._head:
            return
        if self._handle is not None:
            self._handle.remove()
        self._head, self._handle = head, head.register_forward_pre_hook(self._choose)

    def _choose(self, head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        wanted, self._wanted = self._wanted, None
        # A column of all rows is no matrix in memory: the head would be copied once a row.
        return (arguments[0].contiguous() if wanted is None else arguments[0].flatten(0, 1)[wanted],)


def read_once(model: Any, ids: Tensor, most: int) -> dict[str, Any]:
    """Return the arguments of a call that goes on behind the tokens that all rows (batch, tokens) begin with; they are read here.

    There are none where that is too little, or the model's cache cannot be shared.

    Args:
        most: tokens of them, so that something of each prompt is left.
    """
    length = int((ids == ids[0]).all(0)[:most].long().cumprod(0).sum())
    if len(ids) == 1 or length < FEW:
        return {}
    found = model.base_model(input_ids=ids[:1, :length], use_cache=True)
    name = cache_name(found)
    if not is_shareable(found[name]):
        return {}
    found[name].batch_repeat_interleave(len(ids))
    return {"input_ids": ids[:, length:], name: found[name], "use_cache": True}


def is_shareable(cache: object, columns: int = 0) -> bool:
    """Return whether rows can go on from a cache of what they all begin with: keys and values of all tokens.

    Args:
        columns: how many there will be, where padding stands behind the beginning: a sliding window must not count it.
    """
    if not isinstance(cache, DynamicCache):
        return False
    return all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and columns <= layer.sliding_window)
        for layer in cache.layers
    )


def cache_name(arguments: Mapping[str, Any]) -> str:
    """Return what a decoder's cache is called, which depends on the version of transformers."""
    return "cache" if "cache" in arguments else "past_key_values"


def tokens_first(mask: Tensor) -> Tensor:
    """Return for each row of a mask its columns, those of tokens first, in their order."""
    return mask.argsort(dim=1, descending=True, stable=True)


def positions(mask: Tensor) -> Tensor:
    """Return each token's position among its row's tokens, shape of the mask; 0 for padding."""
    return (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)


def is_reading(named: Mapping[str, Any]) -> bool:
    """Return whether a call is given prompts, and not the next tokens of answers to prompts that it has read before."""
    cache = named.get(cache_name(named))
    return cache is None or cache.get_seq_length() == 0
