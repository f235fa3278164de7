"""The loss of a batch: the mean cross-entropy over its target tokens, in float32 whatever the model's type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.encoding.batches import IGNORED, Batch
from clbench.model.gradient_checkpointing import without_checkpointing

Call = Callable[..., Any]  # a model, called with its inputs by name


def batch_loss(model: Any, call: Call, batch: Batch, choose: bool = True, together: bool = False) -> Tensor:
    """Return the loss of a batch, a scalar with its graph.

    Args:
        model: the model that `call` calls, with whatever weights.
        choose: score only the positions that have a label, where the batch knows them: the vocabulary is wide.
        together: a decoder computes what all rows begin with once (see `read_labels`).
    """
    if batch.labelled is None or not choose:
        return full_loss(call, batch.input_ids, batch.attention_mask, batch.labels)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if not model.config.is_encoder_decoder:
        scores = call(**inputs, labels=batch.labels, labelled=batch.labelled, together=together).logits
    else:
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch.labels)
        with scoring(model, batch.labelled):
            scores = call(**inputs).logits
    return functional.cross_entropy(scores.float(), batch.labels.flatten()[batch.labelled])


def full_loss(call: Call, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """Return the loss from the scores of all target positions: the same operations for all batches of a shape."""
    scores = call(input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False).logits
    return functional.cross_entropy(scores.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def with_weights(model: nn.Module, weights: Mapping[str, Tensor], checkpointed: bool) -> Call:
    """Return a function that calls the model with other values for its trained weights, given by name.

    Args:
        checkpointed: whether gradient checkpointing is on; it is switched off during the call, since the backward pass would
            compute the activations again with the model's own weights.
    """

    def call(**inputs: Any) -> Any:
        with without_checkpointing(model) if checkpointed else nullcontext():
            return torch.func.functional_call(model, dict(weights), (), inputs)

    return call


@contextmanager
def scoring(model: Any, positions: Tensor) -> Iterator[None]:
    """Within a `with` block, score only these positions of the (batch x target) ones: logits (positions, vocabulary)."""

    def choose(head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        return (arguments[0].flatten(0, 1)[positions],)

    handle = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
