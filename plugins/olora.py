"""O-LoRA: orthogonal low-rank adaptation (Wang et al. 2023, arXiv:2310.14152).

As IncLoRA, each task trains a block of its own on top of the frozen ones. The rows of its A are kept orthogonal to those of
all earlier A:

    loss = cross-entropy + lambda1 * sum_layers sum_ij |A_past A^T|_ij + lambda2 * sum_tensors ||tensor||_F

The absolute value is the released code's; the paper's text has squares (`ortho_norm=l2sq`). Both sums are plain: no mean over
layers, ranks or tasks, and B is not in the first. The penalties enter once an optimizer step, before clipping and whatever the
micro-batches (the release: once a micro-batch). The released per-task schedules of the lambdas are not reproduced.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from clbench import About, Learner, Search, Task, Unless, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"olora": OLoRA}


@dataclass(eq=False)
class OLoRA:
    """Train a new LoRA block on each task, in a subspace orthogonal to the frozen blocks of all earlier ones."""

    lambda1: Annotated[
        float, "weight of the orthogonality of A; choose it on validation rows", Ge(0), Search(0.01, 10.0, log=True)
    ] = 0.5
    lambda2: Annotated[float, "weight of the norms of A and B", Ge(0), Search(1e-4, 1.0, log=True)] = 0.0
    ortho_norm: Annotated[
        Literal["l1", "l2sq"], "sum of absolute values (release) or of squares (paper's text)", Unless(lambda1=0)
    ] = "l1"
    past: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        learner.attached.add_blocks(self.past)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if learner.task_index > 0:
            self.past = learner.attached.blocks.freeze(learner.weights, learner.generator("block"))
        training, weights = learner.training(task.train), learner.weights
        positions = learner.attached.blocks.positions(weights)
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                self.add_gradient(weights.data, positions, weights.grad)
                training.apply()
        return {
            **training.stats,
            "orthogonality": float(self.orthogonality(weights.data, positions)),
            "norm_a": float(
                sum(weights.data[index].square().sum() for key, index in positions.items() if key[0] == "A")
            )
            ** 0.5,
        }

    def add_gradient(self, weights: Tensor, positions: Mapping[str, Tensor], gradient: Tensor) -> None:
        """Add the penalties' gradient, in float32 and one batched product per size; A and B that are 0 get none."""
        for key, index in positions.items():
            new = weights[index].float()
            if self.lambda1 and key[0] == "A" and key in self.past:
                old = self.past[key].float()
                products = torch.bmm(old, new.mT)  # (layers, old ranks, new ranks)
                slope = products.sign() if self.ortho_norm == "l1" else 2 * products
                gradient[index] += self.lambda1 * torch.bmm(slope.mT, old)
            if self.lambda2:
                norms = torch.linalg.matrix_norm(new, keepdim=True)
                gradient[index] += self.lambda2 * new / norms.clamp_min(torch.finfo(norms.dtype).tiny)

    def orthogonality(self, weights: Tensor, positions: Mapping[str, Tensor]) -> Tensor:
        """Return the sum over layers of |A_past A^T| (or its squares), not yet weighted; 0 in the first task."""
        total = torch.zeros((), device=weights.device)
        for key, old in self.past.items():
            if key[0] == "A":
                products = torch.bmm(old.float(), weights[positions[key]].float().mT)
                total += products.abs().sum() if self.ortho_norm == "l1" else products.square().sum()
        return total
