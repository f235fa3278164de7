"""A-GEM: averaged gradient episodic memory (Chaudhry et al. 2019, ICLR, arXiv:1812.00420), on the flat LoRA vector.

From the second task on, each step compares the gradient g of the new batch with g_ref, that of a batch drawn from the memory. A
step along -g would raise the memory's loss, to first order, where they point apart; what points away is then taken out:

    g~ = g - (g . g_ref / g_ref . g_ref) g_ref    if g . g_ref < 0

The paper descends by SGD. Here the common recipe's AdamW is fed with g~, so the step is not exactly orthogonal to g_ref.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from clbench import About, Learner, Memory, Ratio, Search, Task, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"agem": AGEM}


@dataclass(eq=False)
class AGEM:
    """Take out of each gradient what would raise the loss of a batch of the memory."""

    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training, weights = learner.training(task.train), learner.weights
        projected = torch.zeros((), device=learner.device)
        training.keep(projected)
        replay = learner.feed.draws(self.memory.examples, learner.generator("replay")) if self.memory else None
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if replay is not None:
                    gradient = weights.grad.clone()
                    reference, _ = learner.passes.step_gradient([(next(replay), learner.loss)])
                    projected += gradient @ reference < 0
                    weights.grad.copy_(project(gradient, reference))
                training.apply()
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "projected": float(projected), "remembered": len(self.memory)}


def project(gradient: Tensor, reference: Tensor) -> Tensor:
    """Return the vector nearest to the gradient that does not point away from the reference; waits for no device."""
    size = (reference @ reference).clamp_min(torch.finfo(reference.dtype).tiny)
    return gradient - (gradient @ reference).clamp(max=0) / size * reference
