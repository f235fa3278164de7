"""N-LoRA: non-collision low-rank adaptation (Yang et al., COLING 2025, arXiv:2410.10179).

As IncLoRA, each task trains a block of its own on top of the frozen ones. Its update is kept sparse, so that few weights are
changed by two tasks:

    loss = cross-entropy + strength * sum_layers ||B A||_1

A plain sum over all entries of all layers, without LoRA's scaling. The released code takes another quantity: it multiplies A
(rank, inputs) with B (outputs, rank), which needs square layers, and sums the rank x rank entries; that is about
(width / rank)^1.5 times less, 1,400 on T5-large, and pulls elsewhere: it turns A against B's columns more than it shrinks the
update. The default is ours, the paper's 0.4 divided by that ratio. The penalty enters once an optimizer step, before clipping
and whatever the micro-batches; its gradient is 0 where an entry is 0, and so at the start of a task.
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
    return {"nlora": NLoRA}


@dataclass(eq=False)
class NLoRA:
    """Train a new LoRA block on each task, on top of the frozen ones, whose update of the weights is sparse."""

    strength: Annotated[
        float,
        "lambda, weight of ||BA||_1; ours, since the release weighs another sum",
        Ge(0),
        Search(1e-6, 1.0, log=True),
    ] = 3e-4
    past: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        learner.attached.add_blocks(self.past)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        blocks, weights = learner.attached.blocks, learner.weights
        if learner.task_index > 0:
            self.past = blocks.freeze(weights, learner.generator("block"))
        training = learner.training(task.train)
        pairs, gradients = blocks.pairs(weights, weights.data), blocks.pairs(weights, weights.grad)
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if self.strength:
                    add_gradient(pairs, gradients, self.strength)
                training.apply()
        return {**training.stats, "l1": float(l1(pairs))}


def l1(pairs: Pairs) -> Tensor:
    """Return the sum over layers of ||B A||_1, a scalar; one layer's product is in memory at a time."""
    return torch.stack([(up.float() @ down.float()).abs().sum() for down, up in pairs]).sum()


def add_gradient(pairs: Pairs, gradients: Pairs, strength: float) -> None:
    """Add the gradient of `strength` times the sum over layers of ||B A||_1 to that of each A and B."""
    for (down, up), (of_down, of_up) in zip(pairs, gradients, strict=True):
        slope = (up @ down).sign_()
        of_down.addmm_(up.t(), slope, alpha=strength)
        of_up.addmm_(slope, down.t(), alpha=strength)
