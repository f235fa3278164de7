"""SeqLoRA: one LoRA adapter, trained on one task after another; nothing else is carried over."""

from clbench import hookimpl


@hookimpl
def methods():
    return {"seqlora": SeqLoRA}


class SeqLoRA:
    """Train one LoRA adapter on each task in turn, with no guard against forgetting (the lower bound)."""

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats
