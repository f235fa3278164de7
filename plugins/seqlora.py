"""SeqLoRA: one LoRA adapter, trained on one task after another; nothing else is carried over."""

from typing import ClassVar

from clbench import hookimpl
from clbench.about import About


@hookimpl
def methods():
    return {"seqlora": SeqLoRA}


class SeqLoRA:
    """Train one LoRA adapter on each task in turn, with no guard against forgetting (the lower bound)."""

    about: ClassVar[About] = About(learns_plainly=True)

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats
