"""Decoder-only models called like encoder-decoders: a batch of prompts and of labels in, the loss of the labels out."""

import inspect
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.encoding.batches import IGNORED

Call = tuple[tuple[Any, ...], dict[str, Any]]


def read_labels(model: nn.Module) -> None:
    """Let the model read the labels that it is called with after the prompts, as one sequence.

    From then on `model(input_ids=..., attention_mask=..., labels=...)` takes prompts (batch, input), padding on the left, and
    labels (batch, target), padding on the right. The loss is the mean cross-entropy over the labels; the prompt is not part
    of it. The last `target + 1` scores of the output are those before each label, and one after. Calls without labels, as in
    generation, stay as they are.
    """
    accepted = inspect.signature(model.forward).parameters
    model.register_forward_pre_hook(partial(_join, accepted), with_kwargs=True)


def _join(accepted: Collection[str], model: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Call | None:
    labels = named.get("labels")
    if labels is None:
        return None
    answer = labels.masked_fill(labels == IGNORED, 0)  # any token: it is masked
    mask = torch.cat([named["attention_mask"], (labels != IGNORED).to(named["attention_mask"])], 1)
    joined = {**named, "attention_mask": mask}
    if named.get("inputs_embeds") is None:
        joined["input_ids"] = torch.cat([named["input_ids"], answer], 1)
    else:
        tokens = model.get_input_embeddings()(answer)
        joined["inputs_embeds"] = torch.cat([named["inputs_embeds"], tokens.to(named["inputs_embeds"])], 1)
    if "position_ids" in accepted:
        joined["position_ids"] = positions(mask)
    unlabelled = mask.shape[1] - labels.shape[1]
    if "logits_to_keep" in accepted:  # the vocabulary is wide: score only what has a label
        joined["logits_to_keep"], unlabelled = labels.shape[1] + 1, 1
    joined["labels"] = functional.pad(labels, (unlabelled, 0), value=IGNORED)
    return arguments, joined


def positions(mask: Tensor) -> Tensor:
    """Return each token's position among its row's tokens, shape of the mask; 0 for padding."""
    return (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)


def is_reading(named: Mapping[str, Any]) -> bool:
    """Return whether a call is given prompts, and not the next tokens of answers to prompts that it has read before."""
    cache = named.get("cache", named.get("past_key_values"))  # the name depends on the version of transformers
    return cache is None or cache.get_seq_length() == 0
