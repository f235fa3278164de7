"""Greedy decoding of a batch whose rows leave it as their answers end: a few long answers do not hold up the many short ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from clbench.model.decoder import cache_name

STAY = 0.5  # of a batch's rows; when no more are left, the others leave
FEW = 8  # rows that are put off: a pass costs about as much for one
EARLY = 8  # they are, once this part of the longest answer is written at most, since it has to be written again


def write_greedily(
    model: Any, inputs: Mapping[str, Tensor], config: GenerationConfig, longest: int, put_off: bool = False
) -> tuple[Tensor, list[int]]:
    """Return the likeliest tokens (batch, tokens) that follow the prompts, padded on the right behind each end token.

    The tokens are those of `model.generate`. A generation is stopped as soon as half of its rows have ended, and goes on with the
    other half and its keys and values, which costs no pass. With them are returned the rows that are put off, if any.

    Args:
        inputs: what the model is asked: `input_ids`, for a decoder padded on the left, and `attention_mask`.
        longest: most tokens of an answer.
        put_off: give up on the last few rows early, which are then to be asked together with those of other batches.
    """
    decoder = not model.config.is_encoder_decoder
    rows, device = len(inputs["input_ids"]), inputs["input_ids"].device
    end_tokens = torch.tensor(config.eos_token_id, device=device)
    answers = torch.full((rows, longest), config.pad_token_id, device=device)
    left, written, going = torch.arange(rows, device=device), 0, dict(inputs)
    skipped = inputs["input_ids"].shape[1] if decoder else 1  # the prompt, or the token that starts a decoder
    if not decoder:
        going["encoder_outputs"] = model.get_encoder()(**inputs)
    while True:
        ends = Ends(end_tokens, skipped, len(left))
        found = model.generate(
            **going,
            generation_config=config,
            max_new_tokens=longest - written,
            stopping_criteria=StoppingCriteriaList([ends]),
            return_dict_in_generate=True,
        )
        tokens, written = found.sequences, found.sequences.shape[1] - skipped
        answers[left, :written] = tokens[:, skipped:]
        stay = (~ends.ended(tokens)).nonzero().squeeze(1)
        if written == longest or not len(stay):
            return answers, []
        if put_off and len(stay) <= FEW and written * EARLY <= longest:
            return answers, left[stay].tolist()
        left, going = left[stay], continued(going, found, stay, decoder)


def continued(going: Mapping[str, Any], found: Mapping[str, Any], stay: Tensor, decoder: bool) -> dict[str, Any]:
    """Return what to call `generate` with to go on with some rows of what it returned."""
    kept = cache_name(found)
    found[kept].batch_select_indices(stay)
    tokens, mask = found["sequences"][stay], going["attention_mask"][stay]
    if decoder:
        more = mask.new_ones(len(stay), tokens.shape[1] - mask.shape[1])
        return {"input_ids": tokens, "attention_mask": torch.cat([mask, more], 1), kept: found[kept]}
    states = type(going["encoder_outputs"])(going["encoder_outputs"].last_hidden_state[stay])
    written = {"decoder_input_ids": tokens, "decoder_attention_mask": torch.ones_like(tokens)}
    return {"encoder_outputs": states, "attention_mask": mask, kept: found[kept], **written}


class Ends(StoppingCriteria):  # type: ignore[misc]  # transformers has no types
    """Stop a generation when `STAY` of its rows, or fewer, are left."""

    def __init__(self, tokens: Tensor, skipped: int, rows: int) -> None:
        self._tokens = tokens
        self._skipped = skipped
        self._rows = rows

    def ended(self, sequences: Tensor) -> Tensor:
        """Return which rows (batch,) have an end token in their answer."""
        return torch.isin(sequences[:, self._skipped :], self._tokens).any(1)

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Return for every row (batch,) whether the generation stops."""
        few = (~self.ended(input_ids)).sum() <= STAY * self._rows
        return few.expand(len(input_ids))
