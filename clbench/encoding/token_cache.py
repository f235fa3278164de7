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
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clbench.atomic import make_folder, regular, write_atomically

FORM = 3  # goes up when the way of shortening a prompt changes, or what a file holds
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
        self._vocabulary = len(tokenizer)
        self._tokenizer = hashlib.sha256(content.encode()).hexdigest()

    def path(self, key: object) -> Path:
        """Return the file of a key, anything that JSON can hold."""
        text = json.dumps([FORM, self._tokenizer, key], ensure_ascii=False)
        return self.folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.safetensors"

    def load(self, key: object, count: int) -> list[list[int]] | None:
        """Return the `count` lists that were kept under a key; None where there are none, or the file is damaged."""
        path = self.path(key)
        try:
            with safe_open(regular(path), framework="pt") as file:
                kept = (file.metadata() or {}).get("digest")
                lengths, ids = file.get_tensor("lengths"), file.get_tensor("ids")
            if kept != _digest(path, lengths, ids) or not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary:
                return None
            ends = torch.tensor([0, *lengths.tolist()]).cumsum(0).tolist()
            numbers = ids.tolist()
        except Exception:  # whatever it is: what cannot be read is made anew
            return None
        lists = [numbers[begin:end] for begin, end in itertools.pairwise(ends)]
        return lists if len(lists) == count and ends[-1] == len(numbers) else None

    def save(self, key: object, lists: Sequence[Sequence[int]]) -> None:
        """Keep lists under a key, if that is possible: a cache is a convenience."""
        path = self.path(key)
        lengths = torch.tensor([len(one) for one in lists], dtype=torch.int32)
        ids = torch.tensor([i for one in lists for i in one], dtype=torch.int32)
        content, header = {"lengths": lengths, "ids": ids}, {"digest": _digest(path, lengths, ids)}
        with suppress(Exception):  # no right to write, a full disk, a folder that is a file
            make_folder(path.parent)
            write_atomically(path, lambda temporary: save_file(content, temporary, header))


def _digest(path: Path, *tensors: Tensor) -> str:
    """Return the SHA-256 of what a file of this name holds."""
    digest = hashlib.sha256(path.name.encode())
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
