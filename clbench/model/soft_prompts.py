"""Soft prompts: learned vectors among a prompt's embedded tokens, in training and in generation alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clbench.errors import ClbenchError
from clbench.model.attached import Attached
from clbench.model.backbone import Backbone
from clbench.model.decoder import Call, is_reading, positions

Vectors = Callable[[Tensor, Tensor], Tensor]
MOST_VECTORS = 1024  # before or after a prompt's tokens; what attention costs grows with the square
MOST_ROWS = 20_000  # vectors of all prompts together


def hook_prompt(attached: Attached, vectors: Vectors, where: Literal["before", "after"]) -> None:
    """Put vectors before or after the tokens of every prompt that the model reads from now on, until `detach`.

    After means directly after a row's last token, and with a decoder before its answer: a row's padding moves out of the way,
    so that the distance between tokens and vectors, and with it the answer, does not depend on a row's neighbours.

    Args:
        vectors: from token ids and mask (batch, tokens) to vectors (batch, length, width).
    """
    if attached.model.config.is_encoder_decoder:
        _hook_encoder(attached, vectors, where)
    else:
        _hook_decoder(attached, vectors, where)


def hook_reading(attached: Attached, look: Callable[[Tensor, Tensor], None]) -> None:
    """Call `look(ids, mask)` with every batch of prompts just before the model reads it, until `detach`."""

    def show(reader: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if is_reading(named):
            ids, mask = named["input_ids"], named.get("attention_mask")
            look(ids, torch.ones_like(ids) if mask is None else mask)  # without padding, generation gives no mask

    reader = attached.model.get_encoder() if attached.model.config.is_encoder_decoder else attached.model
    attached.hooks.append(reader.register_forward_pre_hook(show, with_kwargs=True, prepend=True))


def _hook_encoder(attached: Attached, vectors: Vectors, where: Literal["before", "after"]) -> None:
    def embed(encoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Call:
        ids, mask = named["input_ids"], named["attention_mask"]
        prompt, tokens = _few(vectors(ids, mask)), attached.model.get_input_embeddings()(ids)
        embedded, seen = insert(tokens, prompt.to(tokens.dtype), mask, where)
        return arguments, {**named, "input_ids": None, "inputs_embeds": embedded, "attention_mask": seen}

    def widen(decoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Call:
        mask = named["encoder_attention_mask"]
        length = named["encoder_hidden_states"].shape[1] - mask.shape[1]
        return arguments, {**named, "encoder_attention_mask": torch.cat([mask.new_ones(len(mask), length), mask], 1)}

    encoder, decoder = attached.model.get_encoder(), attached.model.get_decoder()
    attached.hooks.append(encoder.register_forward_pre_hook(embed, with_kwargs=True))
    attached.hooks.append(decoder.register_forward_pre_hook(widen, with_kwargs=True))


def _hook_decoder(attached: Attached, vectors: Vectors, where: Literal["before", "after"]) -> None:
    """Padding is on the left, so that a prompt ends in one column, and all that comes after it counts."""
    length = 0

    def embed(model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Call:
        nonlocal length
        ids, mask = named["input_ids"], named.get("attention_mask")
        changed: dict[str, Any] = {}
        if reading := is_reading(named):
            mask = torch.ones_like(ids) if mask is None else mask  # without padding, generation gives no mask
            prompt, tokens = _few(vectors(ids, mask)), attached.model.get_input_embeddings()(ids)
            length, parts = prompt.shape[1], [prompt.to(tokens.dtype), tokens]
            embedded = torch.cat(parts if where == "before" else parts[::-1], 1)
            changed = {"input_ids": None, "inputs_embeds": embedded}
        if mask is not None:
            ones = mask.new_ones(len(mask), length)
            mask = changed["attention_mask"] = torch.cat([ones, mask] if where == "before" else [mask, ones], 1)
        if named.get("position_ids") is not None:
            changed["position_ids"] = (
                positions(changed["attention_mask"]) if reading else named["position_ids"] + length
            )
        return arguments, {**named, **changed}

    attached.hooks.append(attached.model.register_forward_pre_hook(embed, with_kwargs=True, prepend=True))


def _few(prompt: Tensor) -> Tensor:
    """Return the vectors of a prompt, (batch, length, width), if a model can read so many.

    Raises:
        ClbenchError: it cannot.
    """
    if prompt.shape[1] > MOST_VECTORS:
        raise ClbenchError(
            f"a soft prompt of {prompt.shape[1]} vectors is too long; at most {MOST_VECTORS} fit before a text"
        )
    return prompt


def insert(tokens: Tensor, prompt: Tensor, mask: Tensor, where: Literal["before", "after"]) -> tuple[Tensor, Tensor]:
    """Return tokens and prompt as one sequence, and its mask.

    The mask is the same wherever the prompt is: `length` ones more on the left, padding on the right.

    Args:
        tokens: embedded tokens (batch, tokens, width).
        prompt: vectors (batch, length, width).
        mask: (batch, tokens), 1 for a token, 0 for padding on the right.
    """
    seen = torch.cat([mask.new_ones(prompt.shape[:2]), mask], 1)
    if where == "before":
        return torch.cat([prompt, tokens], 1), seen
    length, most = prompt.shape[1], tokens.shape[1]
    position, end = torch.arange(most + length, device=tokens.device), mask.sum(1, keepdim=True)
    of_prompt, of_padding = most + position - end, position - length
    source = torch.where(position < end, position, torch.where(position < end + length, of_prompt, of_padding))
    return torch.cat([tokens, prompt], 1).take_along_dim(source[..., None], 1), seen


def vocabulary_rows(backbone: Backbone, count: int, generator: torch.Generator, most: int | None = None) -> Tensor:
    """Return the embeddings of random tokens, shape (count, width), float32; the usual start of a soft prompt.

    Args:
        most: draw from the first so many tokens of the vocabulary only (the frequent ones of most tokenizers).

    Raises:
        ClbenchError: they are more than any method needs.
    """
    if count > MOST_ROWS:
        raise ClbenchError(f"soft prompts of {count} vectors in all are too many; at most {MOST_ROWS}")
    table: Tensor = backbone.model.get_input_embeddings().weight
    size = min(len(backbone.tokenizer), most or len(backbone.tokenizer), len(table))
    return table[torch.randint(size, (count,), generator=generator).to(table.device)].detach().float()
