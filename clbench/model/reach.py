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
    """Check that a model can read rows, and answer them, with all that a method has put on it: soft prompts count too.

    One pass of the longest text shows whether it is too long. Without it, a run ends in the middle in "index out of range in
    self"; on a GPU, the process is of no more use then.

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
    prompt, answer = len(rows[longest].input_ids), most[longest] if decoder else max(most)
    ids = _text(rows[longest], prompt, backbone)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["labels" if decoder else "decoder_input_ids"] = _text(rows[longest], answer, backbone)
    try:
        with torch.no_grad(), _Tables():
            model.eval()(**inputs, use_cache=False)
    except torch.OutOfMemoryError:
        return  # the run says it in its own words, or finds room in smaller batches
    except IndexError as error:
        taken = error.positions if isinstance(error, _TooLongError) else 0
        # An encoder-decoder was given two texts, one of which is too long.
        vectors = 0 if taken in (prompt, answer) else max(0, taken - prompt - answer * decoder)
        soft = f" and a soft prompt of {vectors} vectors" if vectors else ""
        texts = f"a prompt of {prompt} tokens{soft}"
        if decoder:
            texts = f"a prompt of {prompt} tokens with an answer of {answer}{soft}"
        elif not vectors:
            texts += f", or an answer of {answer},"
        raise ClbenchError(
            f"backbone '{backbone.name}': {texts} is longer than the model can read ({error}); use a shorter --max-input or "
            f"--max-answer{', or a shorter soft prompt' if vectors else ''}"
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


class _TooLongError(IndexError):
    """A text takes more positions than the table of a model has rows."""

    def __init__(self, positions: int, rows: int) -> None:
        super().__init__(f"its table of positions has {rows} rows")
        self.positions = positions


class _Tables(TorchFunctionMode):
    """Says so before a table is asked for a row that it has not: on a GPU that could not be caught."""

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
                raise _TooLongError(index.shape[-1], len(table))
        return function(*args, **(kwargs or {}))
