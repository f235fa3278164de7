"""Broken methods: one keeps all rows of the past in its pocket, one trains on the questions."""

from clbench import hookimpl


class ReadsOldData:
    """Train on all rows seen so far, and declare nothing of it."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def learn_task(self, learner, task):
        self.seen += task.train
        training = learner.training(self.seen)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats


class ReadsTestRows:
    """Train on the task's test rows as well."""

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train + task.test)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats


class AsksForTheTask:
    """Answer by the task's name."""

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats

    @hookimpl
    def evaluate(self, learner, task):
        return [task.name for _ in task.test]


@hookimpl
def methods():
    return {"reads_old_data": ReadsOldData, "reads_test_rows": ReadsTestRows, "asks_for_the_task": AsksForTheTask}
