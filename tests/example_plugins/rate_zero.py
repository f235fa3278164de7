"""A broken method: its replay optimizer has learning rate 0, as the released Recurrent-KIF on LLaMA has."""

from dataclasses import dataclass, field
from typing import ClassVar

from clbench import About, Memory, Ratio, hookimpl


@dataclass(eq=False)
class RateZero:
    """Replay a memory by steps that do nothing."""

    memory_ratio: float = 0.02
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"))

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        replay = training.alongside(self.memory.examples, learning_rate=0.0)
        for batch in training:
            training.step(learner.loss(batch))
            if self.memory:
                for remembered in replay.take(1):
                    replay.step(learner.loss(remembered))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return training.stats


@hookimpl
def methods():
    return {"rate_zero": RateZero}
