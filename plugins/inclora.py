"""IncLoRA: incremental LoRA, one block of rank r per task; earlier blocks are frozen, all of them stay active (summed).

The baseline of O-LoRA (Wang et al. 2023, arXiv:2310.14152): O-LoRA without its penalties. `--save-adapter` writes one PEFT
adapter of all blocks, rank r times the number of tasks.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from clbench import About, Learner, Task, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"inclora": IncLoRA}


@dataclass(eq=False)
class IncLoRA:
    """Train a new LoRA block on each task, on top of the frozen blocks of all earlier ones."""

    past: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        learner.attached.add_blocks(self.past)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if learner.task_index > 0:
            self.past = learner.attached.blocks.freeze(learner.weights, learner.generator("block"))
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return training.stats
