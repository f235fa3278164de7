"""MIGU: magnitude-based gradient updating (Du et al. 2024, arXiv:2406.17245), for LoRA.

At each step only those rows of A and B are updated whose outputs are large for the step's own data. A row of A is judged by
x A, a row of B by the whole layer's output x W + scaling * x A B, each by its sum of absolute values over the tokens. Of d
rows of a matrix the floor(frozen * d) smallest stay. `base=lorareplay` trains on the memory as well, as LoRAReplay does.

The paper's rows "LoRA + MIGU", "OIncLoRA + MIGU" and "LoRAReplay + MIGU" are `base=seqlora`, `base=olora` (its new block is
masked, after O-LoRA's penalty has joined the gradient) and `base=lorareplay`. Like the released code, the sums include padding,
the mask comes before clipping, and the first task is learned without it. `frozen` is the paper's best by default; what
validation rows chose for the embedded backbone, 0.5 and with replay 0.2, is in docs/results.md.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from clbench import About, Learner, Memory, OnlyIf, Ratio, Search, Task, Training, hookimpl

from .olora import OLoRA  # mypy knows this folder by another name

FROZEN = {"seqlora": 0.7, "olora": 0.05, "lorareplay": 0.4}  # the paper's best, Section 5 and App. A


@hookimpl
def methods() -> dict[str, type]:
    return {"migu": MIGU}


@dataclass(eq=False)
class MIGU:
    """Update only the LoRA rows whose outputs are large for the current batch; alone, in orthogonal blocks, or with replay."""

    base: Annotated[
        Literal["seqlora", "olora", "lorareplay"],
        "the new task alone, in a block of its own, or together with a memory",
    ] = "seqlora"
    frozen: Annotated[
        float | None,
        "T: part of each matrix's rows that a step leaves; none: 0.7, on olora 0.05, with replay 0.4 (paper)",
        Interval(ge=0, lt=1),
        Search(0.05, 0.95),
    ] = None
    memory_ratio: Annotated[
        float,
        "part of each task's training rows to remember",
        Interval(gt=0, le=1),
        OnlyIf(base="lorareplay"),
        Search(0.005, 0.1, log=True),
    ] = 0.02
    lambda1: Annotated[
        float,
        "weight of the orthogonality of the blocks' A",
        Ge(0),
        OnlyIf(base="olora"),
        Search(0.01, 10.0, log=True),
    ] = 0.5
    skip_first_task: Annotated[bool, "learn the first task without masks (release)"] = True
    rule: Annotated[Literal["count", "quantile"], "floor(T d) smallest, or those below the quantile T (release)"] = (
        "count"
    )
    rows: Annotated[Literal["magnitude", "random"], "keep the largest rows, or random ones (ablation)"] = "magnitude"
    masked: Annotated[
        Literal["gradient", "update"], "the mask zeroes the gradient, or the step (AdamW's momentum included)"
    ] = "gradient"
    memory: Memory = field(default_factory=Memory, init=False)
    past: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @property
    def part(self) -> float:
        """The part of the rows that stays."""
        return FROZEN[self.base] if self.frozen is None else self.frozen

    @hookimpl
    def attach(self, learner: Learner) -> bool | None:
        if self.base != "olora":
            return None
        learner.attached.add_blocks(self.past)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if self.base == "olora" and learner.task_index > 0:
            self.past = learner.attached.blocks.freeze(learner.weights, learner.generator("block"))
        training = learner.training(task.train + self.memory.examples)
        if learner.task_index == 0 and self.skip_first_task:
            for batch in training:
                training.step(learner.loss(batch))
        else:
            with Magnitudes.watching(learner) as magnitudes:
                self.learn_masked(learner, training, magnitudes)
        if self.base == "lorareplay":
            self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "remembered": len(self.memory)}

    def learn_masked(self, learner: Learner, training: Training, magnitudes: "Magnitudes") -> None:
        """Train with a new mask at each step."""
        weights, devices = learner.weights, learner.devices
        orthogonal = OLoRA(self.lambda1)
        orthogonal.past = self.past
        positions = learner.attached.blocks.positions(weights) if self.past else {}
        for batch in training:
            magnitudes.counting = batch.share > 0  # else the rows are another device's
            training.backward(learner.loss(batch))
            if not training.due:
                continue
            orthogonal.add_gradient(weights.data, positions, weights.grad)
            magnitudes.sums.copy_(devices.add_up(magnitudes.sums))
            mask = magnitudes.mask(self.keep)
            if self.rows == "random":
                mask = devices.of_first(mask)
            if self.masked == "gradient":
                weights.grad.mul_(mask)
                training.apply()
            else:
                before = weights.copy()
                training.apply()
                weights.assign(torch.where(mask, weights.data, before))

    def keep(self, magnitudes: Tensor) -> Tensor:
        """Return which rows are updated, as booleans, from the magnitudes (matrices, rows)."""
        if self.rows == "random":
            magnitudes = torch.rand_like(magnitudes)
        if self.rule == "quantile":
            return magnitudes >= magnitudes.quantile(self.part, dim=1, keepdim=True)
        count = magnitudes.shape[1] - int(self.part * magnitudes.shape[1] + 1e-9)
        return torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(1, magnitudes.topk(count).indices, True)


class Magnitudes:
    """The summed absolute outputs of every LoRA row since the last mask, (rows of all matrices,), in the order of the weights.

    Attributes:
        of_matrix: the same by parameter name, as views.
        counting: whether outputs are added; switched off for rows that do not count.
    """

    def __init__(self, learner: Learner) -> None:
        self.counting = True
        shapes = {name: view.shape for name, view in learner.weights.views(learner.weights.data).items()}
        rows, columns = (torch.tensor(sizes) for sizes in zip(*shapes.values(), strict=True))
        self.sums = torch.zeros(int(rows.sum()), device=learner.device)
        self.of_matrix = dict(zip(shapes, self.sums.split(rows.tolist()), strict=True))
        numbers = torch.arange(len(self.sums))
        self.row_of_weight = numbers.repeat_interleave(columns.repeat_interleave(rows)).to(learner.device)
        groups = defaultdict(list)  # matrices of as many rows, which are masked together
        for part in numbers.split(rows.tolist()):
            groups[len(part)].append(part)
        self.groups = [torch.stack(group).to(learner.device) for group in groups.values()]

    @classmethod
    @contextmanager
    def watching(cls, learner: Learner) -> Iterator["Magnitudes"]:
        """Watch the model's training passes within a `with` block."""
        magnitudes, handles = cls(learner), []
        for name, layer in learner.model.named_modules():
            if isinstance(layer, LoraLayer):
                combined = magnitudes.of_matrix[f"{name}.lora_B.default.weight"]
                handles.append(layer.register_forward_hook(magnitudes.adder(combined)))
                down = magnitudes.of_matrix[f"{name}.lora_A.default.weight"]
                inner = magnitudes.adder(down, layer.lora_A["default"])
                handles.append(layer.lora_dropout["default"].register_forward_hook(inner))
        try:
            yield magnitudes
        finally:
            for handle in handles:
                handle.remove()

    def mask(self, keep: Callable[[Tensor], Tensor]) -> Tensor:
        """Return which weights are updated, shape (weights,), and start the sums anew."""
        kept = torch.empty_like(self.sums, dtype=torch.bool)
        for rows in self.groups:
            kept[rows] = keep(self.sums[rows])
        self.sums.zero_()
        return kept[self.row_of_weight]

    def adder(self, sums: Tensor, following: nn.Linear | None = None) -> Callable[..., None]:
        """Return a forward hook that adds a layer's absolute outputs, over all tokens, to the sums of its rows.

        Args:
            following: a linear layer that takes those outputs; its outputs are added in their place.
        """

        def add(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            if layer.training and self.counting:
                with torch.no_grad():
                    if following is not None:
                        output = functional.linear(output.to(following.weight.dtype), following.weight)
                    sums.add_(output.abs().flatten(0, -2).sum(0, dtype=torch.float32))

        return add
