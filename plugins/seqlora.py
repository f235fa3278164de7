"""SeqLoRA: one LoRA adapter, trained on one task after another; nothing else is carried over."""

from typing import ClassVar

from clbench import About, Learner, Task, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"seqlora": SeqLoRA}


class SeqLoRA:
    """Train one LoRA adapter on each task in turn, with no guard against forgetting (the lower bound)."""

    about: ClassVar[About] = About(learns_plainly=True, several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats
