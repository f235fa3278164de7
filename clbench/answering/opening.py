"""What all questions begin with, read once: a task's instruction, whose keys and values its questions then share."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clbench.encoding.encoder import Encoded
from clbench.model.backbone import Backbone
from clbench.model.decoder import FEW, cache_name, is_shareable


class Opening:
    """The first tokens of some questions, as far as they are the same in all, and a decoder's keys and values for them.

    It holds while the model's weights stay as they are. In a batch, padding stands between the opening and the rest; so it
    is not used where a model counts positions otherwise than by `position_ids`, nor where a layer's cache is another than keys
    and values of all tokens: a sliding window would count the padding.

    Args:
        backbone: of a decoder.
        rows: all the questions.
        longest: most tokens of an answer.
    """

    def __init__(self, backbone: Backbone, rows: Sequence[Encoded], longest: int) -> None:
        self._backbone = backbone
        self._columns = max(len(row.input_ids) for row in rows) + longest
        least = min(len(row.input_ids) for row in rows) - 1  # something has to be left to answer to
        pairs = zip(*(row.input_ids for row in rows), strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, pairs))
        counted = "position_ids" in inspect.signature(backbone.model.forward).parameters
        length = min(same, least) if counted and len(rows) > 1 else 0
        self._tokens = rows[0].input_ids[:length] if length >= FEW else []

    @cached_property
    def _read(self) -> tuple[str, Any] | None:
        """What the model's cache is called, and the cache of one row; None where it cannot be shared."""
        if not self._tokens:
            return None
        found = self._backbone.model.base_model(
            input_ids=torch.tensor([self._tokens], device=self._backbone.device), use_cache=True
        )
        name = cache_name(found)
        return (name, found[name]) if is_shareable(found[name], self._columns) else None

    def inputs(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        """Return what `generate` is to be called with for a batch of these questions."""
        if self._read is None:
            return plain_inputs(self._backbone, rows)
        length, (name, cache) = len(self._tokens), self._read
        rest = plain_inputs(self._backbone, [replace(row, input_ids=row.input_ids[length:]) for row in rows])
        tokens = torch.tensor(self._tokens, device=self._backbone.device).expand(len(rows), -1)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        inputs = {key: torch.cat([part, rest[key]], 1) for key, part in inputs.items()}
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(rows))
        return {**inputs, name: cache}


def plain_inputs(backbone: Backbone, rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return what `generate` is called with where nothing is shared."""
    batch = backbone.collate(rows)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
