"""A broken method: it overrides what saving reads, and the adapter is saved empty, as happens to the Recurrent-KIF release."""

from clbench import hookimpl


class SavesNothing:
    """Train, but give the saving function nothing."""

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        learner.attached.adapter.state_dict = dict
        return training.stats


@hookimpl
def methods():
    return {"saves_nothing": SavesNothing}
