"""GEM: gradient episodic memory (Lopez-Paz & Ranzato 2017, NeurIPS, arXiv:1706.08840), on the flat LoRA vector.

Each earlier task k has a memory, and g_k is the gradient of its loss. Where the gradient g of a step points away from any of
them, the step takes the nearest vector that points away from none:

    min_x |x - g|^2  subject to  g_k . x >= 0 for all k

Its dual has one variable a task: min_v |G^T v + g|^2 with v >= 0, and x = G^T v + g, where the rows of G are the g_k. The
margin asks for v >= margin, which pulls towards the memories whenever a step is projected (the paper's gamma). The dual
is a least squares problem with non-negative unknowns, and SciPy's `nnls` solves it exactly, on the triangular factor that is
left of the long vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from clbench import About, Batch, Learner, Memory, Ratio, Search, Task, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"gem": GEM}


@dataclass(eq=False)
class GEM:
    """Turn each gradient so that it raises the loss of no earlier task's memory."""

    margin: Annotated[
        float, "gamma: least weight of each memory's gradient in a projected step", Ge(0), Search(0.0, 1.0)
    ] = 0.5
    reference: Annotated[
        Literal["memory", "batch"], "g_k on all that is remembered of a task (paper), or on a batch drawn of it"
    ] = "memory"
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
        replays = [
            learner.feed.draws(rows, learner.generator(f"replay of {name}"))
            for name, rows in self.memory.of_task.items()
        ]
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if replays:
                    gradient = weights.grad.clone()
                    found = project(gradient, self.references(learner, replays), self.margin)
                    projected += found is not gradient
                    weights.grad.copy_(found)
                training.apply()
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "projected": float(projected), "remembered": len(self.memory)}

    def references(self, learner: Learner, replays: Sequence[Iterator[list[Batch]]]) -> Tensor:
        """Return the gradient of each earlier task's memory at the current weights, shape (tasks, weights)."""
        if self.reference == "batch":
            return torch.stack([learner.passes.step_gradient([(next(replay), learner.loss)])[0] for replay in replays])
        return torch.stack([learner.passes.mean_gradient(rows) for rows in self.memory.of_task.values()])


def project(gradient: Tensor, references: Tensor, margin: float) -> Tensor:
    """Return the vector for a step: the gradient itself where it points away from no reference (tasks, weights)."""
    products = (references @ gradient).cpu()
    if not products.isfinite().all() or (products >= 0).all():  # what is not finite is reported when the step is taken
        return gradient
    pulled = gradient + margin * references.sum(0)  # v = margin + u, u >= 0
    return pulled + non_negative_solution(references.T, -pulled) @ references


def non_negative_solution(columns: Tensor, target: Tensor) -> Tensor:
    """Return u >= 0 that makes |columns u - target| least, shape (unknowns,)."""
    from scipy.optimize import nnls  # a third of a second, which no other method need wait for

    triangle = torch.linalg.qr(torch.cat([columns, target[:, None]], 1), mode="r").R.double().cpu().numpy()
    return torch.from_numpy(nnls(triangle[:, :-1], triangle[:, -1])[0]).to(columns)
