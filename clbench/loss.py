"""The loss of a batch, from scores of those target positions alone that have a label: the vocabulary is wide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from .batches import Batch


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


def mean_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy, a float32 scalar, of the scores (positions, vocabulary) of the labelled positions."""
    assert batch.labelled is not None
    return functional.cross_entropy(scores.float(), batch.labels.flatten()[batch.labelled])
