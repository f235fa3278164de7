"""Decoder-only models called like encoder-decoders: a batch of prompts and of labels in, the loss of the labels out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clbench.encoding.batches import IGNORED

Call = tuple[tuple[Any, ...], dict[str, Any]]


def read_labels(model: nn.Module) -> None:
    """Let the model read the labels that it is called with after the prompts, as one sequence.

    From then on `model(input_ids=..., attention_mask=..., labels=...)` takes prompts (batch, input), padded anywhere, and
    labels (batch, target), padded on the right; `inputs_embeds` may stand for `input_ids`. Its logits are those of the labels
    alone, (batch, target, vocabulary); with `labelled`, positions among the flattened labels, of those, (positions,
    vocabulary). It computes no loss. Calls without labels, as in generation, stay as they are.
    """
    model.register_forward_pre_hook(LabelReader().join, with_kwargs=True)


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
        self._watch(model.get_output_embeddings())
        labels = named.get("labels")
        if labels is None:
            return None
        prompt, answer = named["attention_mask"], labels.masked_fill(labels == IGNORED, 0)  # any token: none sees it
        order = tokens_first(torch.cat([prompt, (labels != IGNORED).to(prompt)], 1))
        joined = {name: value for name, value in named.items() if name not in ("attention_mask", "labels", "labelled")}
        if named.get("inputs_embeds") is None:
            joined["input_ids"] = torch.cat([named["input_ids"], answer], 1).gather(1, order)
        else:
            tokens = model.get_input_embeddings()(answer)
            sequence = torch.cat([named["inputs_embeds"], tokens.to(named["inputs_embeds"])], 1)
            joined["inputs_embeds"] = sequence.take_along_dim(order[..., None], 1)
        rows, length = order.shape
        begin = torch.arange(rows, device=order.device) * length + prompt.sum(1) - 1
        wanted = begin[:, None] + torch.arange(labels.shape[1], device=order.device)
        self._wanted = wanted if named.get("labelled") is None else wanted.flatten()[named["labelled"]]
        return arguments, joined

    def _watch(self, head: nn.Module) -> None:
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


def tokens_first(mask: Tensor) -> Tensor:
    """Return for each row of a mask its columns, those of tokens first, in their order."""
    return mask.argsort(dim=1, descending=True, stable=True)


def positions(mask: Tensor) -> Tensor:
    """Return each token's position among its row's tokens, shape of the mask; 0 for padding."""
    return (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)


def is_reading(named: Mapping[str, Any]) -> bool:
    """Return whether a call is given prompts, and not the next tokens of answers to prompts that it has read before."""
    cache = named.get("cache", named.get("past_key_values"))  # the name depends on the version of transformers
    return cache is None or cache.get_seq_length() == 0
