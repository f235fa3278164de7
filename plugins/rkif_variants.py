"""Recurrent-KIF with the departures of its released code and the ablations of its paper, each an option of its own.

`variant=release` is the released code. Its other departures are settings of the harness (`--max-input 1024`), or faults that are
not reproduced (empty adapters, test rows in the validation set). By default every option is the paper's: `rkif.py`, which this
page overrides a step at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from clbench import About, Example, Importance, Learner, OnlyIf, Ratio, Search, Task, Training, Unless, hookimpl
from clbench.learning.importance import min_max, top_mask
from clbench.model.weights import Weights

from .rkif import SMOOTHING, RecurrentKIF, Share  # mypy knows this folder by another name

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
def methods() -> dict[str, type]:
    return {"rkif": RecurrentKIFVariants}


@dataclass(eq=False)
class RecurrentKIFVariants(RecurrentKIF):
    """Fuse new and remembered knowledge every few steps, weight by weight, by their current importance."""

    inner_smoothing: Annotated[
        float, "alpha_1: smoothing of the inner importance; 0 takes the last batch alone", *SMOOTHING, WEIGHED
    ] = 0.55
    outer_smoothing: Annotated[
        float, "alpha_2: smoothing of the outer importance", *SMOOTHING, WEIGHED, MEASURED_ANEW
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
    static: Tensor | None = field(default=None, init=False)  # -DIE: mean over finished tasks of their scaled importance

    about: ClassVar[About] = About(
        variants={
            "paper": {},
            "release": RELEASE,
            "release_llama": {**RELEASE, "outer_optimizer": "own", "outer_learning_rate": 0.0},
        },
        memory=Ratio("memory_ratio"),
        several_devices=True,
        resumes_within_tasks=True,
    )

    def __post_init__(self) -> None:
        if self.score == "mean_times_spread" and 0 in (self.inner_smoothing, self.outer_smoothing):
            raise ValueError("without smoothing the deviation is zero: use score=mean")

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        report = super().learn_task(learner, task)
        if self.outer_importance == "static" and task.name in self.memory.of_task:
            self.measure_once(learner, self.memory.of_task[task.name])
        return report

    def measure_once(self, learner: Learner, remembered: Sequence[Example]) -> None:
        """-DIE: take the importance of a finished task, on its memory at its last weights, into the static one."""
        gradient = learner.passes.mean_gradient(remembered)
        scaled = min_max(self.raw_importance(learner.weights.data, gradient))
        tasks = len(self.memory.of_task)
        self.static = scaled if self.static is None else self.static + (scaled - self.static) / tasks

    def start_outer(self, weights: Weights, start: Tensor) -> Tensor:
        if self.outer_start == "window":
            weights.assign(start)
        return super().start_outer(weights, start)

    def take_outer_steps(self, learner: Learner, replay: Training, outer: Importance) -> Tensor:
        for number in range(self.outer_steps):
            observe = self.static is None and (number == 0 or self.outer_update == "step")
            for batch in replay.take(1):
                loss = learner.loss(batch) * self.outer_loss_scale
                self.step(learner, replay, loss, outer if observe else None)
        return outer.score if self.static is None else self.static

    def step(self, learner: Learner, phase: Training, loss: Tensor, importance: Importance | None) -> bool:
        if self.measured == "before_step":
            return super().step(learner, phase, loss, importance)
        taken = super().step(learner, phase, loss, None)
        if taken and importance is not None:
            importance.update(self.raw_importance(learner.weights.data, learner.weights.grad))
        return taken

    def raw_importance(self, weights: Tensor, gradient: Tensor) -> Tensor:
        return super().raw_importance(weights, gradient) if self.importance == "weight_gradient" else gradient.abs()

    def shares(self, inner: Tensor, outer: Tensor, weights: Weights) -> tuple[Share, Share]:
        if self.merge == "all":
            return 1.0, 1.0
        if self.merge == "scalar":
            share = inner.sum() / (inner.sum() + outer.sum())
            return share, 1 - share
        if self.merge == "adaptive":
            share = torch.sigmoid((min_max(inner) - min_max(outer)) / self.temperature)
            return share, 1 - share
        mask_in, mask_out = self.mask(inner, weights), self.mask(outer, weights)
        both, neither = mask_in & mask_out, 0.5 * (~mask_in & ~mask_out)
        if self.merge == "average":
            return torch.where(both, 0.4, mask_in + neither), torch.where(both, 0.6, mask_out + neither)
        if self.merge == "exclusive":
            return mask_in & ~mask_out, mask_out & ~mask_in
        return mask_in, mask_out

    def mask(self, scores: Tensor, weights: Weights) -> Tensor:
        """Return which weights are important enough."""
        groups = weights.positions_by_size if self.scope == "tensor" else None
        return top_mask(scores, self.top, self.ties == "out", groups)

    def replay(self, learner: Learner, training: Training) -> Training:
        rate = self.outer_learning_rate
        if rate is None and self.window is None:
            rate = learner.settings.learning_rate  # the schedule has ended by then
        return training.alongside(self.memory.examples, self.outer_optimizer, rate)

    def follow(self, smoothing: float) -> Importance:
        kind = Importance if self.restart_inner else Lasting
        return kind(smoothing, self.score == "mean_times_spread")


class Lasting(Importance):
    """An importance that goes on from one window to the next."""

    def restart(self) -> None:
        """Forget nothing."""
