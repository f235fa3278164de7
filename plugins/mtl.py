"""MTL: multi-task learning, all tasks at once; the upper bound of the comparison tables."""

from dataclasses import replace
from typing import ClassVar

from clbench import About, Learner, Task, hookimpl
from clbench.running.protocol import Run


@hookimpl
def methods() -> dict[str, type]:
    return {"mtl": MTL}


class MTL:
    """Train one LoRA adapter on the union of all tasks, shuffled; an upper bound, backward transfer is undefined."""

    about: ClassVar[About] = About(upper_bound=True, several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats

    @hookimpl
    def run_stream(self, run: Run) -> bool:
        by_name = sorted(run.tasks, key=lambda task: task.name)  # one list of rows for every order of the stream
        rows = tuple(example for task in by_name for example in task.train)
        run.learn(replace(run.tasks[-1], name="all tasks", train=rows), 0)
        run.evaluate(len(run.tasks) - 1, range(len(run.tasks)))
        return True
