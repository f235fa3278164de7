"""Token ids on disk: what a tokenizer made of a list of texts is read again by the next run that has the same list.

Content-addressed: the name of a file is a digest of the tokenizer, the lengths and every text, so that a change of any of
them is another file. The folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clbench.atomic import make_folder, write_atomically
from clbench.errors import ClbenchError

FORM = 1  # goes up when the way of shortening a prompt changes
VARIABLE = "CLBENCH_CACHE"  # the folder; "none" keeps nothing


def cache_folder() -> Path | None:
    """Return the folder of the cache: $CLBENCH_CACHE, else clbench in the user's cache folder; None for 'none'."""
    given = os.environ.get(VARIABLE)
    if given == "none":
        return None
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clbench"


class TokenCache:
    """Lists of token ids by the texts they were made of, for one tokenizer."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.folder = folder / "tokens"
        content = tokenizer.backend_tokenizer.to_str() + repr(tokenizer.special_tokens_map)
        self._tokenizer = hashlib.sha256(content.encode()).hexdigest()

    def path(self, key: object) -> Path:
        """Return the file of a key, anything that JSON can hold."""
        text = json.dumps([FORM, self._tokenizer, key], ensure_ascii=False)
        return self.folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.safetensors"

    def load(self, key: object, count: int) -> list[list[int]] | None:
        """Return the `count` lists that were kept under a key; None where there are none, or the file is damaged."""
        try:
            content = load_file(self.path(key))
            lengths, ids = content["lengths"].tolist(), content["ids"].tolist()
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        if len(lengths) != count or sum(lengths) != len(ids):
            return None
        ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
        return [ids[begin:end] for begin, end in itertools.pairwise(ends)]

    def save(self, key: object, lists: Sequence[Sequence[int]]) -> None:
        """Keep lists under a key; a folder that cannot be written is passed over."""
        content = {
            "lengths": torch.tensor([len(one) for one in lists], dtype=torch.int32),
            "ids": torch.tensor([i for one in lists for i in one], dtype=torch.int32),
        }
        try:
            make_folder(self.path(key).parent)
            write_atomically(self.path(key), lambda path: save_file(content, path))
        except ClbenchError:
            return  # a cache is a convenience
