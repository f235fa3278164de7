"""AIMMerging: adaptive iterative model merging (Feng et al. 2025, EMNLP, arXiv:2509.17348; released code read for its facts).

As in Recurrent-KIF (`rkif.py`) steps on the new task (task vector tau_in) and on the memory (tau_out) are merged into the weights
theta that both began with, again and again. Here two signals of the training itself say when:

- forgetting: the loss of a batch of the memory, looked at after each step. Its mean over the first two thirds of the planned
  interval is the standard; each later one of at least `factor` times that mean is an alarm. The merge comes at the planned
  step, or after it, with the first alarm; before it with the third; and in any case after twice the interval.
- learning: how far the weights went in the interval, sum |tau_in| / interval. Where it grew, the next interval is shorter by
  that ratio; where it fell, longer.

    theta <- theta + w_in tau_in + w_out tau_out        w = .6 | .4, .4 | .6, or .5 | .5

One weight for all: new knowledge matters while the interval is short, old knowledge where several alarms were raised.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from clbench import About, Batch, Learner, Memory, Ratio, Search, Task, Training, hookimpl

SHORT = 70  # an interval of at most so many steps: the new task is still being learned
LONG = 64  # from here on an interval is shortened twice as much, and lengthened less
ALARMS = 3  # that bring the merge forward


@hookimpl
def methods() -> dict[str, type]:
    return {"aimmerging": AIMMerging}


@dataclass
class Controller:
    """Says when to merge, from the loss of the memory after each step and from how far the weights went.

    Attributes:
        interval: the planned steps from one merge to the next.
        steps: since the last merge.
        alarms: since the last merge.
        merges: so far.
        learning: the learning signal of the last interval.
        standard: the sum of the memory's losses that alarms are told by.
    """

    interval: int
    least: int
    most: int
    cold_start: int
    factor: float
    steps: int = 0
    alarms: int = 0
    merges: int = 0
    learning: float = 0.0
    standard: float = 0.0

    def observe(self, loss: float) -> bool:
        """Take in the memory's loss after a step; return whether to merge now."""
        self.steps += 1
        watched = int(self.interval * 2 / 3) + 1
        if self.steps <= watched:
            self.standard += loss
        elif loss >= self.factor * self.standard / watched or self.steps >= 2 * self.interval:
            self.alarms += 1
        return self.alarms >= ALARMS or (self.alarms > 0 and self.steps >= self.interval)

    @property
    def shares(self) -> tuple[float, float]:
        """The weights of tau_in and tau_out in the merge."""
        new, old = self.interval <= SHORT, self.alarms > 1
        if new == old:
            return 0.5, 0.5
        return (0.6, 0.4) if new else (0.4, 0.6)

    def merged(self, way: float) -> None:
        """Plan the next interval; `way`: the sum of |tau_in|."""
        learning = way / self.interval
        self.merges += 1
        known = all(way and math.isfinite(way) for way in (learning, self.learning))  # else the run has failed
        if self.merges > self.cold_start and known:
            self.interval = self.next_interval(learning)
        self.learning, self.steps, self.alarms, self.standard = learning, 0, 0, 0.0

    def next_interval(self, learning: float) -> int:
        """Return the interval that follows one with this learning signal."""
        if learning >= self.learning:
            interval = int(self.interval * self.learning / learning)
            return max(self.least, interval // 2 if interval >= LONG else interval)
        more = 1.0 if self.interval < LONG else 0.5
        return min(self.most, int(self.interval * (self.learning / learning + more)))


@dataclass(eq=False)
class AIMMerging:
    """Merge new and remembered knowledge whenever the training shows that it is time."""

    interval: Annotated[int, "steps from one merge to the next, at first", Ge(1), Search(choices=(4, 8, 16, 32))] = 8
    shortest: Annotated[int, "steps between two merges that are planned at least", Ge(1)] = 2
    longest: Annotated[
        int, "steps between two merges that are planned at most", Ge(1), Search(choices=(32, 64, 128))
    ] = 128
    cold_start: Annotated[int, "merges of a task that leave the interval as it is", Ge(0)] = 4
    factor: Annotated[
        float, "how many times its mean the memory's loss must be for an alarm", Gt(0), Search(1.0, 4.0)
    ] = 2.0
    outer_ratio: Annotated[
        float, "steps on the memory in a merge, for each step of the interval", Gt(0), Search(0.125, 1.0, log=True)
    ] = 1.0
    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    def __post_init__(self) -> None:
        if not self.shortest <= self.interval <= self.longest:
            raise ValueError("the interval must lie between the shortest and the longest one")

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training, merges = learner.training(task.train), 0
        if self.memory:
            merges = self.learn_and_merge(learner, training)
        else:
            for batch in training:
                training.step(learner.loss(batch))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "merges": merges, "remembered": len(self.memory)}

    def learn_and_merge(self, learner: Learner, training: Training) -> int:
        """Merge whenever the controller says so; steps left over at the end are not merged. Return the merges."""
        replay = training.alongside(self.memory.examples, optimizer="shared")  # as released: one AdamW for both
        looked_at = learner.feed.draws(self.memory.examples, learner.generator("forgetting"))
        controller = Controller(self.interval, self.shortest, self.longest, self.cold_start, self.factor)
        start = learner.weights.copy()
        training.keep(controller, start)
        for batch in training:
            if training.step(learner.loss(batch)) and controller.observe(self.loss_of(learner, next(looked_at))):
                self.merge(learner, replay, start, controller)
                start.copy_(learner.weights.data)
        return controller.merges

    @torch.no_grad()
    def loss_of(self, learner: Learner, group: Sequence[Batch]) -> float:
        """Return the loss of the micro-batches of one step, with dropout as in training (waits for the device)."""
        total = torch.zeros((), device=learner.device)
        for batch in map(learner.devices.part, group):
            total += learner.loss(batch).float() * batch.share
        return float(learner.devices.add_up(total))

    def merge(self, learner: Learner, replay: Training, start: Tensor, controller: Controller) -> None:
        """Take the steps on the memory and merge both task vectors into the weights that the interval began with."""
        weights = learner.weights
        before = weights.copy()
        tau_in = before - start
        for batch in replay.take(max(1, int(controller.interval * self.outer_ratio))):
            replay.step(learner.loss(batch))
        tau_out = weights.data - before
        share_in, share_out = controller.shares
        weights.assign(start + share_in * tau_in + share_out * tau_out)
        controller.merged(float(tau_in.abs().sum()))
