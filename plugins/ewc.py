"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796), on one LoRA adapter.

After a task, the diagonal Fisher information F says how much its answers depend on each weight. Later tasks pay

    penalty(theta) = strength / 2 * sum_i F_i (theta_i - anchor_i)^2

`form=online` (Schwarz et al. 2018) sums the F, old ones shrunk by `decay`, and anchors at the latest weights; `form=mean`
averages them instead. `form=offline` is the original sum of one penalty per task: a sum of quadratics is a quadratic, so F
adds up, the anchor is the F-weighted mean of all weights, and a constant stays over; nothing is lost and the state does not
grow. Gradient and penalty enter once an optimizer step, whatever the micro-batches.

F is the empirical one: each row's own gradient of log p(answer), summed over its tokens, at the final weights and without
dropout. The default strength is the paper's (400, on Atari), F as it is. `normalise` lets one strength mean the same on models
of another size; what validation rows chose for the embedded backbone stands in its preset (`clbench methods ewc --preset mini`),
another backbone needs another (`clbench tune`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval, Le
from torch import Tensor

from clbench import About, Example, Learner, OnlyIf, Search, Task, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"ewc": EWC}


def zero() -> Tensor:
    """Return what stands for F, anchor and constant before the first task."""
    return torch.zeros(())


@dataclass(eq=False)
class EWC:
    """Hold each weight near its old value, the harder the more the old tasks needed it."""

    strength: Annotated[
        float,
        "lambda, weight of the penalty; the paper's, for Atari: choose it on validation rows",
        Ge(0),
        Search(1e-2, 1e4, log=True),
    ] = 400.0
    form: Annotated[
        Literal["online", "offline", "mean"], "F summed, anchor latest; one penalty per task, exactly; F averaged"
    ] = "online"
    decay: Annotated[
        float,
        "gamma, factor on the old F at each task",
        Interval(ge=0, le=1),
        OnlyIf(form="online"),
        Search(choices=(0.5, 0.9, 0.95, 1.0)),
    ] = 1.0
    normalise: Annotated[bool, "scale each task's F to a mean of 1, so that strength does not depend on the model"] = (
        False
    )
    fisher_rows: Annotated[int | None, "training rows that F is estimated on; none: all", Ge(1), Le(10**6)] = None
    clip: Annotated[Literal["total", "task"], "clip the gradient with the penalty's, or the task's alone"] = "total"
    tasks: int = field(default=0, init=False)
    fisher: Tensor = field(default_factory=zero, init=False)
    anchor: Tensor = field(default_factory=zero, init=False)
    constant: Tensor = field(default_factory=zero, init=False)

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training = learner.training(task.train)
        weights = learner.weights
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if self.clip == "task":
                    training.clip()
                if self.tasks:
                    weights.grad.add_(self.penalty_gradient(weights.data))
                training.apply(clip=self.clip == "total")
        penalty = float(self.penalty(weights.data))
        self.consolidate(self.estimate(learner, task.train), weights.copy())
        return {**training.stats, "penalty": penalty}

    def penalty(self, theta: Tensor) -> Tensor:
        """Return the penalty of a weight vector, a scalar."""
        return self.strength / 2 * ((self.fisher * (theta - self.anchor).square()).sum() + self.constant)

    def penalty_gradient(self, theta: Tensor) -> Tensor:
        """Return the penalty's gradient, shape (weights,)."""
        return (theta - self.anchor).mul_(self.fisher).mul_(self.strength)

    def estimate(self, learner: Learner, rows: Sequence[Example]) -> Tensor:
        """Return F on rows of the task just learned: the mean of each row's squared gradient, without dropout."""
        if self.fisher_rows is not None and self.fisher_rows < len(rows):
            order = torch.randperm(len(rows), generator=learner.generator("fisher"))
            rows = [rows[i] for i in order[: self.fisher_rows].tolist()]
        fisher = learner.passes.squared_gradients(rows)
        return fisher / fisher.mean().clamp_min(torch.finfo(fisher.dtype).tiny) if self.normalise else fisher

    def consolidate(self, fisher: Tensor, theta: Tensor) -> None:
        """Take in the F of a task and the weights at its end."""
        self.tasks += 1
        if self.tasks == 1:
            self.fisher, self.anchor, self.constant = fisher, theta, torch.zeros((), device=theta.device)
        elif self.form == "online":
            self.fisher, self.anchor = self.decay * self.fisher + fisher, theta
        elif self.form == "mean":
            self.fisher, self.anchor = self.fisher + (fisher - self.fisher) / self.tasks, theta
        else:
            total = self.fisher + fisher
            share = fisher / total.clamp_min(torch.finfo(total.dtype).tiny)  # where both are 0 the anchor is free
            self.constant = self.constant + (self.fisher * share * (theta - self.anchor).square()).sum()
            self.fisher, self.anchor = total, torch.lerp(self.anchor, theta, share)
