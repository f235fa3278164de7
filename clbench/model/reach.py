"""What a model can read: tokens that it has embeddings of, and texts as long as its table of positions, if it has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from clbench.encoding.encoder import Encoded
from clbench.errors import ClbenchError
from clbench.model.backbone import Backbone


def check_reach(backbone: Backbone, rows: Sequence[Encoded], answers: Sequence[int]) -> None:
    """Check that a backbone can read rows, and answer them. One pass of the longest text shows whether it is too long.

    Without this, a run ends in the middle in "index out of range in self"; on a GPU, the process is of no more use then.

    Args:
        answers: for each row, how many tokens its answer may have.

    Raises:
        ClbenchError: a token has no embedding, or a text is longer than the model's table of positions.
    """
    _check_tokens(backbone, rows)
    model, decoder = backbone.model, backbone.is_decoder
    most = [max(len(row.labels), answer) for row, answer in zip(rows, answers, strict=True)]
    lengths = [len(row.input_ids) + most[i] * decoder for i, row in enumerate(rows)]
    longest = max(range(len(rows)), key=lengths.__getitem__)
    inputs = {"input_ids": _text(rows[longest], lengths[longest], backbone)}
    if not decoder:
        inputs["decoder_input_ids"] = _text(rows[longest], max(most), backbone)
    try:
        with torch.no_grad(), _Tables():
            (model.base_model if decoder else model).eval()(**inputs, use_cache=False)
    except torch.OutOfMemoryError:
        return  # the run says it in its own words, or finds room in smaller batches
    except IndexError as error:
        text = f"a prompt of {len(rows[longest].input_ids)} tokens" + (
            f" with an answer of {most[longest]}" if decoder else f", or an answer of {max(most)},"
        )
        raise ClbenchError(
            f"backbone '{backbone.name}': {text} is longer than the model can read ({error}); "
            f"use a shorter --max-input or --max-answer"
        ) from None


def _check_tokens(backbone: Backbone, rows: Iterable[Encoded]) -> None:
    known, tokenizer = backbone.model.get_input_embeddings().weight.shape[0], backbone.tokenizer
    largest = max(tokenizer.pad_token_id, *(i for row in rows for i in (*row.input_ids, *row.labels)))
    if largest >= known:
        raise ClbenchError(
            f"backbone '{backbone.name}': its tokenizer has the token {tokenizer.convert_ids_to_tokens(largest)!r} as number "
            f"{largest}, but the model's embeddings end at {known - 1}; save the model with its own tokenizer, or resized to it"
        )


def _text(row: Encoded, length: int, backbone: Backbone) -> Tensor:
    """Return tokens of a row, again and again up to a length, as a batch of one."""
    ids = [*row.input_ids, *row.labels]
    return torch.tensor([(ids * (length // len(ids) + 1))[:length]], device=backbone.device)


class _Tables(TorchFunctionMode):
    """Raises IndexError before a table is asked for a row that it has not: on a GPU that could not be caught."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is functional.embedding:
            index, table = args[0], args[1]
            if int(index.max()) >= len(table):
                raise IndexError(f"its table of positions has {len(table)} rows")
        return function(*args, **(kwargs or {}))
