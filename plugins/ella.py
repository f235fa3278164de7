"""ELLA: efficient lifelong learning for adapters (Das Biswas et al., EACL 2026, arXiv:2601.02232).

As IncLoRA, each task trains a block of its own on top of the frozen ones. Entries of the weights that earlier tasks changed much
are kept from changing again, the others are free:

    loss = cross-entropy + strength * sum_layers ||D * P||_F^2,   D = s B A,   P = s * sum of the earlier B A,   * entry by entry

The paper merges a task's block into the weights and keeps P; here the frozen weights stay as they are, the blocks are kept, which
is the same function, and each step computes P of a layer from them: no dense matrix is stored. The penalty enters once an
optimizer step, before clipping and whatever the micro-batches. It grows with the fourth power of the updates, so that a strength
means something else on each model; none of the paper's is known to us: choose it on validation rows (`clbench tune`).
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from clbench import About, Learner, Search, Task, hookimpl
from clbench.model.lora_blocks import Pairs


@hookimpl
def methods() -> dict[str, type]:
    return {"ella": ELLA}


@dataclass(eq=False)
class ELLA:
    """Train a new LoRA block on each task that changes little where the earlier ones have changed much."""

    strength: Annotated[
        float,
        "lambda, weight of the overlap with earlier updates; none is known: choose it on validation rows",
        Ge(0),
        Search(0.01, 1e6, log=True),
    ] = 1.0
    past: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        learner.attached.add_blocks(self.past)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        blocks, weights, settings = learner.attached.blocks, learner.weights, learner.settings
        if learner.task_index > 0:
            self.past = blocks.freeze(weights, learner.generator("block"))
        training, scaling = learner.training(task.train), settings.lora_alpha / settings.lora_rank
        pairs, gradients = blocks.pairs(weights, weights.data), blocks.pairs(weights, weights.grad)
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if self.strength and self.past:
                    add_gradient(pairs, blocks.past_pairs(), gradients, scaling, self.strength)
                training.apply()
        return {**training.stats, "overlap": float(overlap(pairs, blocks.past_pairs(), scaling))}


def overlap(pairs: Pairs, past: Pairs, scaling: float) -> Tensor:
    """Return the sum over layers of ||D * P||_F^2, a scalar; 0 in the first task."""
    found = [torch.zeros(())]
    for (down, up), (past_down, past_up) in zip(pairs, past, strict=False):
        new, old = up.float() @ down.float(), past_up.float() @ past_down.float()
        found.append((scaling**2 * new * old).square().sum().cpu())
    return torch.stack(found).sum()


def add_gradient(pairs: Pairs, past: Pairs, gradients: Pairs, scaling: float, strength: float) -> None:
    """Add the gradient of `strength` times the overlap to that of each A and B."""
    for (down, up), (past_down, past_up), (of_down, of_up) in zip(pairs, past, gradients, strict=True):
        slope = (past_up @ past_down).square_().mul_(up @ down)
        factor = 2 * strength * scaling**4
        of_down.addmm_(up.t(), slope, alpha=factor)
        of_up.addmm_(slope, down.t(), alpha=factor)
