"""LoRA in rank blocks: frozen blocks of earlier tasks beside the trainable ones, and gates that weigh the blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from peft.utils import transpose
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from clbench.model.saved_tensors import read_tensors
from clbench.model.weights import Weights

ADAPTER = "default"
ADAPTER_FILE = "adapter_model.safetensors"
Gate = Callable[[int, Tensor], Tensor]
Pairs = Sequence[tuple[Tensor, Tensor]]
"""A and B of each adapted layer, (ranks, inputs) and (outputs, ranks)."""


class Blocks:
    """The rank blocks of every adapted layer: y = W x + s * sum_i g_i B_i A_i x, with the frozen blocks first.

    The trainable blocks are PEFT's adapter; the frozen ones, one rank for all of them, cost one more branch, whatever their
    number. All share the scaling s and the dropout mask.

    Attributes:
        layers: the adapted layers by name, in the model's order.
        rank: rank of one block.
        past: the frozen blocks, oldest first, one tensor per size: 'A 32' (layers, ranks, inputs) for layers of 32 inputs,
            'B 48' (layers, outputs, ranks) for layers of 48 outputs. Empty in the first task.
        gate: from a layer's number and its input (batch, tokens, inputs) to the weights g of all blocks, shape
            (batch, tokens or 1, blocks); None is 1 for all, and then the blocks can be merged into W.
        isolated: the frozen blocks take their input without dropout and give it no gradient.
    """

    def __init__(self, model: nn.Module, rank: int, past: Mapping[str, Tensor]) -> None:
        self.layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
        self.rank = rank
        self.gate: Gate | None = None
        self.isolated = False
        self._variants = [BlockLayer(number, self) for number in range(len(self.layers))]
        for layer, variant in zip(self.layers.values(), self._variants, strict=True):
            layer.lora_variant[ADAPTER] = variant
        self.past: dict[str, Tensor] = {}
        self._use(past)

    def freeze(self, weights: Weights, generator: torch.Generator) -> dict[str, Tensor]:
        """Append the trainable block to the frozen ones and start a new one; return all frozen ones (`past`).

        The new A is uniform in +-1/sqrt(inputs) (Kaiming with a = sqrt(5), as PEFT's), the new B is 0.
        """
        past = dict(self.past)
        for key, index in self.positions(weights).items():
            values, is_down = weights.data[index], key.startswith("A")
            past[key] = torch.cat([past[key], values], 1 if is_down else 2) if key in past else values
            fresh = torch.zeros(values.shape)
            if is_down:
                fresh.uniform_(-1, 1, generator=generator).mul_(values.shape[2] ** -0.5)
            weights.data[index] = fresh.to(values)
        self._use(past)
        return self.past

    def positions(self, weights: Weights) -> dict[str, Tensor]:
        """Return where in the flat weights the trainable A and B are, with the keys of `past`.

        One tensor of positions per key: (layers, ranks, inputs) for A, (layers, outputs, ranks) for B.
        """
        views = weights.views(torch.arange(len(weights), device=weights.data.device))
        return {
            key: torch.stack([views[f"{name}.lora_{key[0]}.{ADAPTER}.weight"] for name in names])
            for key, names in self._groups().items()
        }

    def pairs(self, weights: Weights, vector: Tensor) -> Pairs:
        """Return each layer's trainable A and B, in the order of `layers`, as views of a flat vector: values or a gradient."""
        views = weights.views(vector)
        return [
            (views[f"{name}.lora_A.{ADAPTER}.weight"], views[f"{name}.lora_B.{ADAPTER}.weight"]) for name in self.layers
        ]

    def past_pairs(self) -> Pairs:
        """Return each layer's frozen A and B, those of all blocks as one; none in the first task."""
        return [variant.past for variant in self._variants if variant.past is not None]

    def save(self, adapter: PeftModel, folder: Path) -> None:
        """Write all blocks as one PEFT adapter whose scaling is theirs, the frozen ones first."""
        adapter.save_pretrained(folder)
        if not self.past:
            return
        tensors = self._all_ranks(adapter)
        save_file(tensors, folder / ADAPTER_FILE, {"format": "pt"})
        config = LoraConfig.from_pretrained(folder)
        ranks = tensors[_key(next(iter(self.layers)), "A")].shape[0]
        config.r, config.lora_alpha = ranks, config.lora_alpha * ranks / config.r
        config.save_pretrained(folder)

    def load(self, adapter: PeftModel, folder: Path) -> None:
        """Read what `save` wrote: the last ranks are the trainable ones, all before them the frozen ones.

        Raises:
            ValueError: the file holds other tensors, or other ranks, than are on the model.
        """
        tensors = read_tensors(folder / ADAPTER_FILE, self._all_ranks(adapter))
        past = {}
        for key, names in self._groups().items():
            found = torch.stack([tensors[_key(name, key[0])] for name in names])
            if key in self.past:
                axis = 1 if key[0] == "A" else 2
                past[key] = found.narrow(axis, 0, self.past[key].shape[axis]).contiguous().to(self.past[key].device)
        own = {_key(name, letter): layer.r[ADAPTER] for name, layer in self.layers.items() for letter in "AB"}
        for key, ranks in own.items():
            tensors[key] = tensors[key][-ranks:] if ".lora_A." in key else tensors[key][:, -ranks:]
        set_peft_model_state_dict(adapter, tensors)
        self._use(past)

    def _all_ranks(self, adapter: PeftModel) -> dict[str, Tensor]:
        """Return the tensors of one PEFT adapter of all blocks, the frozen ones first."""
        tensors = dict(get_peft_model_state_dict(adapter))
        for name, variant in zip(self.layers, self._variants, strict=True):
            for letter, past, axis in zip("AB", variant.past or (), (0, 1), strict=False):
                key = _key(name, letter)
                tensors[key] = torch.cat([past, tensors[key]], axis).contiguous()
        return tensors

    def _groups(self) -> dict[str, list[str]]:
        groups = defaultdict(list)
        for name, layer in self.layers.items():
            groups[f"A {layer.in_features}"].append(name)
            groups[f"B {layer.out_features}"].append(name)
        return dict(groups)

    def _use(self, past: Mapping[str, Tensor]) -> None:
        """Give each layer its own part of the frozen blocks, as a view."""
        self.past = dict(past)
        parts = {key: iter(tensor) for key, tensor in past.items()}
        for layer, variant in zip(self.layers.values(), self._variants, strict=True):
            keys = (f"A {layer.in_features}", f"B {layer.out_features}")
            variant.past = (next(parts[keys[0]]), next(parts[keys[1]])) if past else None


class BlockLayer(LoraVariant):  # type: ignore[misc]  # peft has no types
    """What one LoRA layer computes with its blocks; PEFT calls it in place of its own arithmetic.

    The arithmetic of quantised and of watched layers, and what `fast/fused_lora.py` is tested against, which computes the rest.
    """

    def __init__(self, number: int, blocks: Blocks) -> None:
        self.number = number
        self.blocks = blocks
        self.past: tuple[Tensor, Tensor] | None = None

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: object) -> Tensor:
        """Return the layer's output from that of the frozen base layer."""
        dropped = module.lora_dropout[active_adapter](x)
        hidden = module.lora_A[active_adapter](dropped)
        shares = None
        if self.blocks.gate is not None:
            shares = self.shares(x).repeat_interleave(self.blocks.rank, -1)
            hidden = hidden * shares[..., -hidden.shape[-1] :]
        change = module.lora_B[active_adapter](hidden)
        if self.past is not None:
            down, up = self.past
            old = functional.linear(x.detach() if self.blocks.isolated else dropped, down)
            if shares is not None:
                old = old * shares[..., : old.shape[-1]]
            change = change + functional.linear(old, up)
        output: Tensor = result + change * module.scaling[active_adapter]
        return output

    def shares(self, x: Tensor) -> Tensor:
        """Return the gate's weights of this layer's blocks for its input (batch, tokens, inputs), in the input's type."""
        assert self.blocks.gate is not None
        return self.blocks.gate(self.number, x).to(x.dtype)

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the base weight, a copy, with all blocks folded in."""
        change = module.get_delta_weight(active_adapter)
        if self.past is not None:
            down, up = self.past
            change = change + transpose(up @ down, module.fan_in_fan_out) * module.scaling[active_adapter]
        folded: Tensor = orig_weight + change.to(orig_weight.dtype)
        return folded


def _key(layer: str, letter: str) -> str:
    return f"base_model.model.{layer}.lora_{letter}.weight"
