"""Whether a backbone is still as it was loaded: what is frozen is shared by the runs of a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # as which the bytes of a number are summed up


@dataclass(frozen=True)
class Frozen:
    """Sums over all that a model holds, and its modules, at the time it was looked at; two passes over the memory."""

    tensors: Mapping[str, Tensor]
    sums: Mapping[str, tuple[int, int]]
    shape: Mapping[str, object]

    @classmethod
    def of(cls, model: nn.Module) -> Frozen:
        """Look at a model on which nothing is attached."""
        tensors = _tensors_of(model)
        return cls(tensors, {name: position_sums(tensor) for name, tensor in tensors.items()}, _shape_of(model))

    def changed(self) -> list[str]:
        """Return the names of the tensors that hold something else now, whatever is attached to the model."""
        return [name for name, tensor in self.tensors.items() if position_sums(tensor) != self.sums[name]]

    def replaced(self, model: nn.Module) -> list[str]:
        """Return the names of tensors and modules that came, went, or are hooked into; nothing may be attached any more."""
        now, shape = _tensors_of(model), _shape_of(model)
        others = [name for name in {**self.tensors, **now} if self.tensors.get(name) is not now.get(name)]
        return others + [
            name or "the model" for name in {**self.shape, **shape} if self.shape.get(name) != shape.get(name)
        ]


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shape_of(model: nn.Module) -> dict[str, Any]:
    """Return what each module is: its class, how many hooked into it, and which parameters want a gradient."""
    shape: dict[str, Any] = {}
    for name, part in model.named_modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        trained = [key for key, one in part.named_parameters(recurse=False) if one.requires_grad]
        shape[name] = (type(part), *map(len, hooks), "forward" in vars(part), trained)
    return shape


def position_sums(tensor: Tensor) -> tuple[int, int]:
    """Return two sums over a tensor's bytes that change with any number, and where two of them change places."""
    with torch.no_grad():
        bits = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        bits = (
            bits.detach().contiguous().view(WHOLE[bits.element_size()]).view(max(1, len(bits) if bits.dim() else 1), -1)
        )
        sums = []
        for dimension in (0, 1):
            of_line = bits.sum(dimension, dtype=torch.int64)
            sums.append((of_line * torch.arange(1, len(of_line) + 1, device=bits.device)).sum())
        return int(sums[0]), int(sums[1])
