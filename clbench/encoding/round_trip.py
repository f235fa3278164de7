"""Texts that a tokenizer cannot write: what comes back of them is another answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PLAIN = {"split_special_tokens": True}  # how data is tokenised: '</s>' in it is four characters, and ends nothing


def written(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return what comes back of texts that a model wrote to the letter, as its answers are decoded."""
    ids = tokenizer(list(texts), **PLAIN)["input_ids"]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
