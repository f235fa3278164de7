"""TaSL: task skill localization and consolidation (Feng et al. 2024, ACL), on one LoRA adapter.

Skill units are groups of weights. While a task is learned, the importance of every weight is smoothed over the steps, with its
deviation (I_bar * U). After the task, the weights before and after it are merged unit by unit,

    theta = theta_old + c (theta_new - theta_old)

where c depends on the unit's importance for the new task (p) and for the old ones (q), both scaled to 0..1 over all units:
a unit among the top 20% for the new task alone is taken (1), for the old ones alone is given up (0), for both it is mixed
(0.3), and for neither averaged (0.5). The importance for the old tasks accumulates and is never measured again.

`variant=taslora`, the journal version: a unit is one rank of a module (a row of A and the column of B), the importance is
|w g - (w g)^2 / 2|, c = exp(p/T) / (exp(p/T) + exp(q/T)), and the loss pulls A and B towards orthonormal ranks.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from clbench import About, Importance, Learner, OnlyIf, Search, Task, hookimpl
from clbench.learning.importance import min_max, top_mask
from clbench.model.weights import Weights


@hookimpl
def methods() -> dict[str, type]:
    return {"tasl": TaSL}


@dataclass(eq=False)
class TaSL:
    """Merge each task's weights into the old ones, unit by unit, by their importance for new and old tasks."""

    unit: Annotated[Literal["matrix", "rank"], "each A and each B, or each rank of a module"] = "matrix"
    importance: Annotated[Literal["first", "second", "mix"], "|w g|, (w g)^2, or |w g - (w g)^2 / 2|"] = "first"
    merge: Annotated[Literal["hard", "soft"], "by thresholds, or weighted by exp(importance / temperature)"] = "hard"
    smoothing: Annotated[
        float, "beta: smoothing of importance and deviation over steps", Interval(gt=0, lt=1), Search(0.5, 0.99)
    ] = 0.85
    top: Annotated[
        float,
        "part of the units that count as important",
        Interval(gt=0, lt=1),
        OnlyIf(merge="hard"),
        Search(0.05, 0.5),
    ] = 0.2
    both: Annotated[
        float,
        "share of the new weights where a unit is important for both",
        Interval(ge=0, le=1),
        OnlyIf(merge="hard"),
        Search(0.1, 0.9),
    ] = 0.3
    neither: Annotated[
        float,
        "share of the new weights where it is important for neither",
        Interval(ge=0, le=1),
        OnlyIf(merge="hard"),
        Search(0.1, 0.9),
    ] = 0.5
    temperature: Annotated[float, "T", Gt(0), OnlyIf(merge="soft"), Search(0.05, 2.0, log=True)] = 0.25
    accumulation: Annotated[
        float, "share of the new task in the accumulated importance", Interval(ge=0, le=1), Search(0.1, 0.9)
    ] = 0.3
    orthogonality: Annotated[
        float, "weight of the pull towards orthonormal ranks", Ge(0), Search(1e-3, 1.0, log=True)
    ] = 0.0
    accumulated: Tensor | None = field(default=None, init=False)

    about: ClassVar[About] = About(
        variants={
            "tasl": {},
            "taslora": {"unit": "rank", "importance": "mix", "merge": "soft", "orthogonality": 0.1},
        },
        several_devices=True,
        resumes_within_tasks=True,
    )

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        weights = learner.weights
        old, importance = weights.copy(), Importance(self.smoothing, spread=True)
        training = learner.training(task.train)
        training.keep(importance)
        stacks = rank_stacks(weights) if self.orthogonality else ()
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if stacks:
                    learner.passes.backward(self.orthogonality * departure(weights.vector, stacks))
                training.apply()
                if training.taken > 1 or training.steps == 1:  # as released: not the first step
                    importance.update(self.measure(weights.data * weights.grad))
        self.consolidate(weights, old, self.unit_scores(weights.views(importance.score)))
        return {**training.stats, "moved": float((weights.data - old).norm())}

    def measure(self, product: Tensor) -> Tensor:
        """Return the raw importance of each weight from weight times gradient."""
        if self.importance == "second":
            return product.square()
        return (product - 0.5 * product.square()).abs() if self.importance == "mix" else product.abs()

    def unit_scores(self, views: Mapping[str, Tensor]) -> Tensor:
        """Return the importance of each unit from the weights' importance, by parameter."""
        if self.unit == "matrix":
            return torch.stack([view.mean() for view in views.values()])
        return torch.cat([a.mean(1) * b.mean(0) for a, b in pairs(views)])  # the mean of b's column times a's row

    def consolidate(self, weights: Weights, old: Tensor, scores: Tensor) -> None:
        """Merge the weights into the old ones and accumulate the units' importance; the first task only accumulates."""
        if self.accumulated is None:
            self.accumulated = scores
            return
        present, previous = min_max(scores), min_max(self.accumulated)
        share = self.per_weight(weights, self.shares(present, previous))
        weights.assign(torch.lerp(old, weights.data, share))
        self.accumulated = min_max(self.accumulation * present + (1 - self.accumulation) * previous)

    def shares(self, present: Tensor, previous: Tensor) -> Tensor:
        """Return the share of the new weights for each unit, from its importance for the new and for the old tasks."""
        if self.merge == "soft":
            return torch.sigmoid((present - previous) / self.temperature)
        new, old = (top_mask(scores, self.top, strict=True) for scores in (present, previous))
        return torch.where(new, torch.where(old, self.both, 1.0), torch.where(old, 0.0, self.neither))

    def per_weight(self, weights: Weights, shares: Tensor) -> Tensor:
        """Return the units' values as one value for each weight, shape (weights,)."""
        result = torch.empty_like(weights.data)
        views = weights.views(result)
        if self.unit == "matrix":
            for view, share in zip(views.values(), shares, strict=True):
                view.copy_(share)
        else:
            ranks = [a.shape[0] for a, _ in pairs(views)]
            for (a, b), share in zip(pairs(views), shares.split(ranks), strict=True):
                a.copy_(share[:, None].expand_as(a))
                b.copy_(share.expand_as(b))
        return result


def pairs(views: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return A (rank, inputs) and B (outputs, rank) of each module."""
    return [(view, views[name.replace("lora_A", "lora_B")]) for name, view in views.items() if "lora_A" in name]


def rank_stacks(weights: Weights) -> list[Tensor]:
    """Return where the matrices lie in the flat vector: one index tensor (matrices, rank, size) a size; B is transposed."""
    stacks = defaultdict(list)
    for a, b in pairs(weights.views(torch.arange(len(weights), device=weights.data.device))):
        stacks[a.shape].append(a)
        stacks[b.T.shape].append(b.T)
    return [torch.stack(group) for group in stacks.values()]


def departure(vector: Tensor, stacks: Sequence[Tensor]) -> Tensor:
    """Return the mean over matrices of ||M M^T - I||, M being A or the transpose of B."""
    total = vector.new_zeros(())
    for index in stacks:
        matrices = vector[index]
        gram = matrices @ matrices.transpose(1, 2) - torch.eye(index.shape[1], device=vector.device)
        total = total + torch.linalg.matrix_norm(gram).sum()
    return total / sum(len(index) for index in stacks)
