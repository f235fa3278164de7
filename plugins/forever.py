"""FOREVER: replay by a forgetting curve, on the model's own clock (Feng et al. 2026, ACL, arXiv:2601.03938).

Time is the way that the weights have gone: the sum over a task's steps of |theta_t - theta_{t-1}|; that of the first `day`
steps is one day. The memory is replayed when 1, 2, 4, 7, 15, 30, 60 ... days have passed, however many steps that takes. A
replay step's loss is

    CE(old rows) + beta |theta - theta_before|^2     beta = anchor * clip(1 + sensitivity (r - 1), 0.5, 3)

where theta_before are the weights that the task began with, and r is the present speed (smoothed) over that of the first day:
while the weights move fast, they are held harder. Nothing of the clock outlives the task.

The paper was read in summaries alone. What they leave open is chosen here: the sensitivity; that the way of replay steps does
not count; that a replay takes as many batches, drawn from the memory, as the memory fills.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, ClassVar

from annotated_types import Ge, Interval
from torch import Tensor

from clbench import About, Learner, Memory, Ratio, Search, Task, Training, Unless, hookimpl

DAYS = (1, 2, 4, 7, 15, 30)  # after which the memory is replayed; then twice as many each time
LEAST, MOST = 0.5, 3.0  # of what the anchor is multiplied by


@hookimpl
def methods() -> dict[str, type]:
    return {"forever": FOREVER}


@dataclass
class Clock:
    """A task's time: the way that the weights have gone, in days, and how fast they go.

    Attributes:
        day_steps: steps of the first day.
        smoothing: of the speed.
        way: of all steps so far.
        day: the way of one day; 0 while the first one lasts.
        speed: the smoothed way of a step.
        passed: days of replay that the way has reached.
        replays: that were due so far; one where a step reaches several such days.
    """

    day_steps: int
    smoothing: float
    steps: int = 0
    way: float = 0.0
    day: float = 0.0
    speed: float = 0.0
    passed: int = 0
    replays: int = 0

    def tick(self, way: float) -> bool:
        """Take in the way of a step; return whether a replay is due."""
        self.steps += 1
        self.way += way
        if self.steps == self.day_steps:
            self.day, self.speed = self.way, self.way / self.steps
        elif self.day:
            self.speed = self.smoothing * self.speed + (1 - self.smoothing) * way
        reached = self.passed
        while self.day and self.next_day * self.day <= self.way < math.inf:  # a step may go further than to one of them
            self.passed += 1
        self.replays += self.passed > reached
        return self.passed > reached

    @property
    def first_speed(self) -> float:
        """The mean way of a step of the first day."""
        return self.day / self.day_steps

    @property
    def next_day(self) -> int:
        """After how many days the next replay is due."""
        return next(islice(days(), self.passed, None))

    @property
    def haste(self) -> float:
        """The present speed over that of the first day."""
        return self.speed / self.first_speed


def days() -> Iterator[int]:
    """Yield after how many days the memory is replayed, without end."""
    yield from DAYS
    last = DAYS[-1]
    while True:
        last *= 2
        yield last


@dataclass(eq=False)
class FOREVER:
    """Replay the memory at growing distances, measured by how far the weights have moved."""

    day: Annotated[
        int,
        "S: steps whose way is one day; in a task of fewer nothing is replayed",
        Ge(1),
        Search(choices=(8, 16, 24, 48)),
    ] = 24
    replay_steps: Annotated[
        int | None,
        "steps on the memory at each replay; none: as many as it fills batches",
        Ge(1),
        Search(choices=(1, 2, 4, 8)),
    ] = None
    anchor: Annotated[
        float,
        "beta_0: pull of a replay step towards the weights that the task began with",
        Ge(0),
        Search(1e-4, 1e-1, log=True),
    ] = 1e-3
    sensitivity: Annotated[
        float, "gamma: how much of a change of speed the pull follows", Ge(0), Search(0.0, 2.0), Unless(anchor=0)
    ] = 1.0
    smoothing: Annotated[
        float,
        "part of the old speed in the smoothed one",
        Interval(ge=0, lt=1),
        Search(0.5, 0.99),
        Unless(anchor=0, sensitivity=0),
    ] = 0.95
    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training, weights = learner.training(task.train), learner.weights
        replay = training.alongside(self.memory.examples) if self.memory else None
        before, clock = weights.copy(), Clock(self.day, self.smoothing)
        training.keep(clock)
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                last = weights.copy()
                training.apply()
                if clock.tick(float((weights.data - last).norm())) and replay is not None:  # waits for the device
                    self.take_replay_steps(learner, replay, before, self.pull(clock.haste))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {
            **training.stats,
            "replays": clock.replays if replay is not None else 0,
            "days": clock.way / clock.day if clock.day else 0.0,
            "remembered": len(self.memory),
        }

    def pull(self, haste: float) -> float:
        """Return beta, the weight of the pull towards the old weights."""
        return self.anchor * min(max(1 + self.sensitivity * (haste - 1), LEAST), MOST)

    def take_replay_steps(self, learner: Learner, replay: Training, before: Tensor, pull: float) -> None:
        """Take the steps of one replay on the memory."""
        steps = self.replay_steps or math.ceil(len(self.memory) / learner.settings.batch_size)
        for batch in replay.take(steps):
            replay.backward(learner.loss(batch))
            if replay.due:
                learner.weights.grad.add_(learner.weights.data - before, alpha=2 * pull)
                replay.apply()
