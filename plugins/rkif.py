"""Recurrent-KIF: recurrent knowledge identification and fusion (ACL 2025, arXiv:2502.17510).

From the second task on, training runs in windows. Each window takes K steps on the new task (task vector tau_in, importance
I_in), then M steps on the memory of earlier tasks (tau_out, I_out), and fuses both into the weights theta_b it started from:

    theta_{b+1} = theta_b + m_in * tau_in + m_out * tau_out        (eq. 9)

where a mask m is one for the most important weights (eq. 8). The defaults are the paper's algorithm. `variant=release` is the
released code; each of its departures is also an option of its own. The code's other departures are settings of the harness
(`--max-input 1024`), or faults that are not reproduced (empty adapters, test rows in the validation set).
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from clbench import hookimpl
from clbench.about import About, Ratio
from clbench.learning.importance import Importance, min_max, top_mask
from clbench.learning.replay_memory import Memory
from clbench.options import OnlyIf, Search, Unless

RELEASE = {
    "score": "mean_times_spread",
    "inner_smoothing": 0.85,
    "outer_smoothing": 0.85,
    "measured": "after_step",
    "outer_update": "step",
    "ties": "out",
    "merge": "average",
    "outer_optimizer": "shared",
    "outer_loss_scale": 0.25,
}
# when an option has an effect
MASKED = OnlyIf(merge=("mask", "average", "exclusive"))
WEIGHED = Unless(merge="all")
MEASURED_ANEW = OnlyIf(outer_importance="current")


@hookimpl
def methods():
    return {"rkif": RecurrentKIF}


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
        float,
        "alpha_1: smoothing of the inner importance; 0 takes the last batch alone",
        Interval(ge=0, lt=1),
        WEIGHED,
        Search(0.0, 0.95),
    ] = 0.55
    outer_smoothing: Annotated[
        float,
        "alpha_2: smoothing of the outer importance",
        Interval(ge=0, lt=1),
        WEIGHED,
        MEASURED_ANEW,
        Search(0.0, 0.95),
    ] = 0.55
    top: Annotated[
        float, "part of the weights that a mask lets through", Interval(gt=0, lt=1), MASKED, Search(0.05, 0.5)
    ] = 0.2
    importance: Annotated[Literal["weight_gradient", "gradient"], "|w g| (eq. 3) or |g| (Table 10)", WEIGHED] = (
        "weight_gradient"
    )
    measured: Annotated[
        Literal["before_step", "after_step"],
        "w and g of one point, or g clipped and w after the optimizer step (release)",
        WEIGHED,
    ] = "before_step"
    score: Annotated[
        Literal["mean", "mean_times_spread"], "smoothed importance, or times its deviation (release)", WEIGHED
    ] = "mean"
    outer_update: Annotated[
        Literal["window", "step"],
        "outer importance once a window at theta_b(K), or at each outer step (release)",
        WEIGHED,
        MEASURED_ANEW,
    ] = "window"
    outer_importance: Annotated[
        Literal["current", "static"], "measured again in each window, or once a task at its end (-DIE)", WEIGHED
    ] = "current"
    restart_inner: Annotated[
        bool, "begin the inner importance anew in each window", WEIGHED, Unless(window=None, inner_smoothing=0)
    ] = True
    ties: Annotated[Literal["in", "out"], "whether a score on the threshold is let through; out: release", MASKED] = (
        "in"
    )
    scope: Annotated[Literal["global", "tensor"], "one threshold for all weights or one per tensor", MASKED] = "global"
    merge: Annotated[
        Literal["mask", "average", "all", "exclusive", "scalar", "adaptive"],
        "eq. 9; release; m=1 (-KI); nothing where both masks are 1 (-Share); +GM; +Adaptive",
    ] = "mask"
    temperature: Annotated[
        float, "temperature of the weighting", Gt(0), OnlyIf(merge="adaptive"), Search(0.05, 2.0, log=True)
    ] = 0.25
    outer_start: Annotated[Literal["inner", "window"], "the outer steps start from theta_b(K), or from theta_b"] = (
        "inner"
    )
    outer_optimizer: Annotated[Literal["own", "shared"], "an AdamW of its own, or the inner one (release)"] = "own"
    outer_learning_rate: Annotated[
        float | None,
        "none: the inner one, as scheduled (without a window: its peak)",
        Ge(0),
        Search(1e-5, 1e-2, log=True),
    ] = None
    outer_loss_scale: Annotated[
        float, "factor on the memory's loss; 0.25: release", Gt(0), Search(0.1, 2.0, log=True)
    ] = 1.0
    memory: Memory = field(default_factory=Memory, init=False)
    static: Tensor | None = field(default=None, init=False)  # -DIE: mean over finished tasks of their scaled importance

    about: ClassVar[About] = About(
        variants={
            "paper": {},
            "release": RELEASE,
            "release_llama": {**RELEASE, "outer_optimizer": "own", "outer_learning_rate": 0.0},
        },
        memory=Ratio("memory_ratio"),
    )

    def __post_init__(self):
        if self.score == "mean_times_spread" and 0 in (self.inner_smoothing, self.outer_smoothing):
            raise ValueError("without smoothing the deviation is zero: use score=mean")

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        fusions = 0
        if self.memory:
            fusions = self.learn_in_windows(learner, training)
        else:
            for batch in training:
                training.step(learner.loss(batch))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        if self.outer_importance == "static" and task.name in self.memory.of_task:
            self.measure_once(learner, self.memory.of_task[task.name])
        return {**training.stats, "fusions": fusions, "remembered": len(self.memory)}

    def learn_in_windows(self, learner, training):
        """Train in windows, each closed by a fusion; steps left over at the end are not fused. Return the fusions."""
        rate = self.outer_learning_rate
        if rate is None and self.window is None:
            rate = learner.settings.learning_rate  # the schedule has ended by then
        replay = training.alongside(self.memory.examples, self.outer_optimizer, rate)
        inner = Importance(self.inner_smoothing, self.score == "mean_times_spread")
        outer = Importance(self.outer_smoothing, self.score == "mean_times_spread")
        start, window = learner.weights.copy(), self.window or training.steps  # theta_b, K
        fusions = 0
        for batch in training:
            if not self.observed_step(learner, training, learner.loss(batch), inner):
                continue
            if training.taken % window == 0:
                self.fuse(learner, replay, start, inner, outer)
                start = learner.weights.copy()
                fusions += 1
        return fusions

    def measure_once(self, learner, remembered):
        """-DIE: take the importance of a finished task, on its memory at its last weights, into the static one."""
        gradient = learner.passes.mean_gradient(remembered)
        scaled = min_max(self.raw_importance(learner.weights.data, gradient))
        tasks = len(self.memory.of_task)
        self.static = scaled if self.static is None else self.static + (scaled - self.static) / tasks

    def fuse(self, learner, replay, start, inner, outer):
        """Take the outer steps and set the weights to the fusion of both task vectors."""
        tau_in = learner.weights.data - start  # eq. 2
        if self.outer_start == "window":
            learner.weights.assign(start)
        before = learner.weights.copy()  # theta_b(K)
        for step in range(self.outer_steps):
            observe = self.static is None and (step == 0 or self.outer_update == "step")
            for batch in replay.take(1):
                self.observed_step(
                    learner, replay, learner.loss(batch) * self.outer_loss_scale, outer if observe else None
                )
        tau_out = learner.weights.data - before  # eq. 5
        old = outer.score if self.static is None else self.static
        share_in, share_out = self.shares(inner.score, old, learner.weights)
        learner.weights.assign(start + share_in * tau_in + share_out * tau_out)  # eq. 9
        if self.restart_inner:
            inner.restart()

    def observed_step(self, learner, phase, loss, importance):
        """Take a loss; when it completes an optimizer step, feed the importance (unless None) and return True."""
        phase.backward(loss)
        if not phase.due:
            return False
        if self.measured == "after_step":
            phase.apply()
        if importance is not None:
            importance.update(self.raw_importance(learner.weights.data, learner.weights.grad))  # eq. 4, 7
        if self.measured == "before_step":
            phase.apply()
        return True

    def raw_importance(self, weights, gradient):
        """Return the importance of each weight at one point (eq. 3)."""
        return (weights * gradient if self.importance == "weight_gradient" else gradient).abs()

    def shares(self, inner, outer, weights):
        """Return how much of tau_in and of tau_out each weight takes, from the two importance scores."""
        if self.merge == "all":
            return 1.0, 1.0
        if self.merge == "scalar":
            share = inner.sum() / (inner.sum() + outer.sum())
            return share, 1 - share
        if self.merge == "adaptive":
            share = torch.sigmoid((min_max(inner) - min_max(outer)) / self.temperature)
            return share, 1 - share
        mask_in, mask_out = self.mask(inner, weights), self.mask(outer, weights)  # eq. 8
        if self.merge == "average":
            neither = 0.5 * (~mask_in & ~mask_out)
            return torch.where(mask_in & mask_out, 0.4, mask_in + neither), torch.where(
                mask_in & mask_out, 0.6, mask_out + neither
            )
        if self.merge == "exclusive":
            return mask_in & ~mask_out, mask_out & ~mask_in
        return mask_in, mask_out

    def mask(self, scores, weights):
        """Return which weights are important enough."""
        groups = weights.positions_by_size if self.scope == "tensor" else None
        return top_mask(scores, self.top, self.ties == "out", groups)
