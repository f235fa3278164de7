"""Read saved tensors back, checked one by one against those that the model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clbench.atomic import regular

NAMED = 5  # names of each fault that a message gives


def read_tensors(file: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, which has exactly those of the same names and shapes, all finite.

    Raises:
        ValueError: the file is not there or damaged, or has other tensors; the message names them.
    """
    try:
        found = load_file(regular(file))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from None
    shared = [name for name in wanted if name in found]
    shapes = {name: (tuple(found[name].shape), tuple(wanted[name].shape)) for name in shared}
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [f"{name} {has}, not {needs}" for name, (has, needs) in shapes.items() if has != needs],
        "not finite": [name for name in shared if not torch.isfinite(found[name]).all()],
    }
    texts = [f"{fault}: {name_some(names)}" for fault, names in faults.items() if names]
    if texts:
        raise ValueError(f"tensors of {file.name} {'; '.join(texts)}")
    return found


def name_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
