"""A method that answers with an average of its weights, and one that forgets to make the average a part of its state."""

from dataclasses import dataclass, field

from torch import Tensor

from clbench import hookimpl


@dataclass(eq=False)
class Average:
    """Train each task in turn; answer with the moving average of the weights over the steps of the last task."""

    mean: Tensor | None = field(default=None, init=False)

    @hookimpl
    def learn_task(self, learner, task):
        training, mean = learner.training(task.train), learner.weights.copy()
        for batch in training:
            training.step(learner.loss(batch))
            mean.lerp_(learner.weights.data, 0.1)
        self.mean = mean
        return training.stats

    @hookimpl
    def evaluate(self, learner, task):
        last = learner.weights.copy()
        if self.mean is not None:
            learner.weights.assign(self.mean)
        try:
            return learner.answer(task.test, labels=task.labels)
        finally:
            learner.weights.assign(last)


class ForgetsAverage:
    """Keep the average where no checkpoint looks: not in a declared field."""

    def __init__(self):
        self.mean = None

    learn_task = Average.learn_task
    evaluate = Average.evaluate


@hookimpl
def methods():
    return {"average": Average, "forgets_average": ForgetsAverage}
