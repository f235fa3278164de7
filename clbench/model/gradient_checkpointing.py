"""Gradient checkpointing: keep no activations of a layer, compute them again in the backward pass."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clbench.errors import ClbenchError


def set_checkpointing(model: Any, on: bool) -> None:
    """Switch it on or off; a `transformers` model checkpoints in training mode alone.

    The form without re-entering needs no input with a gradient, which a frozen base does not have.

    Raises:
        ClbenchError: the architecture cannot do it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the names are about to change in transformers
        if not on:
            model.gradient_checkpointing_disable()
            return
        try:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise ClbenchError(f"--gradient-checkpointing: {error}") from None
        model.disable_input_require_grads()  # hooks that only the re-entering form needs, and that nobody would take off


@contextmanager
def without_checkpointing(model: Any) -> Iterator[None]:
    """Switch it off for the duration of a block, and on after it."""
    set_checkpointing(model, False)
    try:
        yield
    finally:
        set_checkpointing(model, True)
