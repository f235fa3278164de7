"""Two replay methods that size their memory by options of other names: a part of the rows, and a number of rows."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge, Interval

from clbench import About, Memory, Ratio, Rows, hookimpl


@dataclass(eq=False)
class Share:
    """Replay a part of the rows, beside the new ones."""

    share: Annotated[float, "part of the rows to remember", Interval(ge=0, le=1)] = 0.1
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("share"))

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train + self.memory.examples)
        for batch in training:
            training.step(learner.loss(batch))
        self.memory.remember(task, self.share, learner.seed("memory"))
        return training.stats


@dataclass(eq=False)
class Counted:
    """Replay the first rows of each task, beside the new ones."""

    kept: Annotated[int, "rows of a task to remember", Ge(0)] = 5
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Rows("kept"))

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train + self.memory.examples)
        for batch in training:
            training.step(learner.loss(batch))
        self.memory.of_task[task.name] = task.train[: self.kept]
        return training.stats


@dataclass(eq=False)
class Overdrawn(Counted):
    """Keep a row more than declared."""

    @hookimpl
    def learn_task(self, learner, task):
        stats = Counted.learn_task(self, learner, task)
        self.memory.of_task[task.name] = task.train[: self.kept + 1]
        return stats


@hookimpl
def methods():
    return {"share": Share, "counted": Counted, "overdrawn": Overdrawn}
