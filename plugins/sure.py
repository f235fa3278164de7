"""SuRe: surprise-driven prioritised replay with slow weights (Hazard et al. 2025, arXiv:2511.22367).

What to rehearse: the memory keeps a task's most surprising rows, those whose answers have the highest mean negative log
likelihood a token. How to take up what is new: the weights that learn (fast) are followed by slow ones,

    slow <- smoothing * slow + (1 - smoothing) * fast      after each step

and it is the slow ones that answer. Fast and slow weights are the vector of A and B each; their mean is not that of the
products B A.

The paper was read in its abstract and in summaries alone. The surprise is that of the fast weights before they learn the task, as
in the release (afterwards wrong labels have the highest losses). Other than there, only the answer's tokens count, as in the
loss, and a step on the memory follows every `replay_every` steps, by the same optimizer: docs/methods/sure.md has the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from clbench import About, Learner, Memory, Ratio, Search, Task, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"sure": SuRe}


@dataclass(eq=False)
class SuRe:
    """Rehearse the rows that surprised most, and answer with a moving average of the weights."""

    smoothing: Annotated[
        float,
        "part of the old slow weights that stays at each step; 0: answer with the weights that learn",
        Interval(ge=0, lt=1),
        Search(choices=(0.0, 0.9, 0.99, 0.995)),
    ] = 0.99
    measured: Annotated[
        Literal["before", "after"], "how surprising a row is: to the model before, or after it learns the task"
    ] = "before"
    replay_every: Annotated[
        int, "steps on the new task for each one on the memory", Ge(1), Search(choices=(1, 2, 4, 8))
    ] = 2
    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    memory: Memory = field(default_factory=Memory, init=False)
    fast: Tensor | None = field(default=None, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        weights = learner.weights
        slow = weights.copy()
        if self.fast is not None:
            weights.assign(self.fast)
        surprise = learner.passes.losses(task.train) if self.measured == "before" else None
        training = learner.training(task.train)
        replay = training.alongside(self.memory.examples, optimizer="shared") if self.memory else None
        training.keep(slow)
        for batch in training:
            if training.step(learner.loss(batch)):
                self.follow(slow, weights.data)
                if replay is not None and training.taken % self.replay_every == 0:
                    for remembered in replay.take(1):
                        if replay.step(learner.loss(remembered)):
                            self.follow(slow, weights.data)
        self.fast = weights.copy()
        weights.assign(slow)
        self.remember(task, learner.passes.losses(task.train) if surprise is None else surprise)
        return {**training.stats, "remembered": len(self.memory)}

    def follow(self, slow: Tensor, fast: Tensor) -> None:
        """Move the slow weights towards the fast ones."""
        slow.lerp_(fast, 1 - self.smoothing)

    def remember(self, task: Task, surprise: Tensor) -> None:
        """Keep a task's most surprising rows, in their order."""
        chosen = most_surprising(surprise, int(self.memory_ratio * len(task.train) + 1e-9))
        if chosen:
            self.memory.of_task[task.name] = tuple(task.train[row] for row in chosen)


def most_surprising(surprise: Tensor, count: int) -> Sequence[int]:
    """Return the positions of the highest values, in rising order; of equal ones the first."""
    order: list[int] = torch.sort(surprise, descending=True, stable=True).indices[:count].tolist()
    return sorted(order)
