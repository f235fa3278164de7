"""Recurrent-KIF: recurrent knowledge identification and fusion (ACL 2025, arXiv:2502.17510): the paper's algorithm.

From the second task on, training runs in windows. Each window takes K steps on the new task (task vector tau_in, importance
I_in), then M steps on the memory of earlier tasks (tau_out, I_out), and fuses both into the weights theta_b it started from:

    theta_{b+1} = theta_b + m_in * tau_in + m_out * tau_out        (eq. 9)

where a mask m is one for the most important weights (eq. 8). `rkif_variants.py` offers it, with the released code's departures
and the paper's ablations as further options.
"""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Interval
from torch import Tensor

from clbench import Importance, Learner, Memory, Search, Task, Training, hookimpl
from clbench.learning.importance import top_mask
from clbench.model.weights import Weights

SMOOTHING = Interval(ge=0, lt=1), Search(0.0, 0.95)
Share = Tensor | float  # of a task vector: for each weight, or for all


@dataclass(eq=False)
class RecurrentKIF:
    """Fuse new and remembered knowledge every few steps, weight by weight, by their current importance."""

    window: Annotated[
        int | None,
        "K: inner steps on the new task between two fusions; none: all, one fusion",
        Ge(1),
        Search(choices=(2, 4, 8, 16, 32)),
    ] = 8
    outer_steps: Annotated[
        int, "M: outer steps on the memory before each fusion", Ge(1), Search(choices=(1, 2, 4, 8))
    ] = 4
    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    inner_smoothing: Annotated[
        float, "alpha_1: smoothing of the inner importance; 0 takes the last batch alone", *SMOOTHING
    ] = 0.55
    outer_smoothing: Annotated[float, "alpha_2: smoothing of the outer importance", *SMOOTHING] = 0.55
    top: Annotated[float, "part of the weights that a mask lets through", Interval(gt=0, lt=1), Search(0.05, 0.5)] = 0.2
    memory: Memory = field(default_factory=Memory, init=False)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training, fusions = learner.training(task.train), 0
        if self.memory:
            fusions = self.learn_in_windows(learner, training)
        else:
            for batch in training:
                training.step(learner.loss(batch))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "fusions": fusions, "remembered": len(self.memory)}

    def learn_in_windows(self, learner: Learner, training: Training) -> int:
        """Close each window of K steps by a fusion; steps left over at the end are not fused. Return the fusions."""
        replay = self.replay(learner, training)
        inner, outer = self.follow(self.inner_smoothing), self.follow(self.outer_smoothing)
        start, window = learner.weights.copy(), self.window or training.steps  # theta_b, K
        training.keep(inner, outer, start)
        for batch in training:
            if self.step(learner, training, learner.loss(batch), inner) and training.taken % window == 0:
                self.fuse(learner, replay, start, inner, outer)
                start.copy_(learner.weights.data)
        return training.taken // window

    def fuse(self, learner: Learner, replay: Training, start: Tensor, inner: Importance, outer: Importance) -> None:
        """Take the outer steps and set the weights to the fusion of both task vectors."""
        weights = learner.weights
        tau_in = weights.data - start  # eq. 2
        before = self.start_outer(weights, start)
        score_out = self.take_outer_steps(learner, replay, outer)
        tau_out = weights.data - before  # eq. 5
        share_in, share_out = self.shares(inner.score, score_out, weights)
        weights.assign(start + share_in * tau_in + share_out * tau_out)  # eq. 9
        inner.restart()

    def start_outer(self, weights: Weights, start: Tensor) -> Tensor:
        """Return the weights that the outer steps start from: theta_b(K)."""
        return weights.copy()

    def take_outer_steps(self, learner: Learner, replay: Training, outer: Importance) -> Tensor:
        """Take M steps on the memory; return its importance, which is measured at theta_b(K), before the first."""
        for number in range(self.outer_steps):
            for batch in replay.take(1):
                self.step(learner, replay, learner.loss(batch), outer if number == 0 else None)
        return outer.score

    def step(self, learner: Learner, phase: Training, loss: Tensor, importance: Importance | None) -> bool:
        """Take a loss; when it completes an optimizer step, feed the importance (unless None) and return True."""
        phase.backward(loss)
        if not phase.due:
            return False
        if importance is not None:
            importance.update(self.raw_importance(learner.weights.data, learner.weights.grad))  # eq. 4, 7
        phase.apply()
        return True

    def raw_importance(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Return the importance of each weight at one point (eq. 3)."""
        return (weights * gradient).abs()

    def shares(self, inner: Tensor, outer: Tensor, weights: Weights) -> tuple[Share, Share]:
        """Return how much of tau_in and of tau_out each weight takes, from the two importance scores (eq. 8)."""
        return top_mask(inner, self.top), top_mask(outer, self.top)

    def replay(self, learner: Learner, training: Training) -> Training:
        """Return the phase of the outer steps: an AdamW of its own, at the rate of the inner one."""
        return training.alongside(self.memory.examples)

    def follow(self, smoothing: float) -> Importance:
        """Return what follows an importance over the steps (eq. 4)."""
        return Importance(smoothing)
