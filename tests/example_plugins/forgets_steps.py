"""Two broken methods that say they go on within a task: one forgets what its loop holds, one steers a phase by hand."""

from typing import ClassVar

from clbench import About, hookimpl


class ForgetsSteps:
    """Follow a slow average of the weights, of which nobody is told."""

    about: ClassVar[About] = About(resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner, task):
        training, slow = learner.training(task.train), learner.weights.copy()
        for batch in training:
            training.step(learner.loss(batch))
            slow.lerp_(learner.weights.data, 0.5)
        learner.weights.assign(slow)
        return training.stats


class StepsByHand:
    """Take the batches of a phase four steps at a time."""

    about: ClassVar[About] = About(resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        while training.taken < training.steps:
            for batch in training.take(4):
                training.step(learner.loss(batch))
        return training.stats


@hookimpl
def methods():
    return {"forgets_steps": ForgetsSteps, "steps_by_hand": StepsByHand}
