"""InfLoRA: interference-free low-rank adaptation (Liang and Li, CVPR 2024, arXiv:2404.00228), for language models.

As IncLoRA, each task trains a block of its own on top of the frozen ones, but its A is designed and then frozen, and only B is
trained. C is the mean of x x^T over what a layer reads of the task, M an orthonormal basis of what it read of the old tasks:

    A = the first `rank` left singular vectors of (I - M M^T) C, as rows, divided by sqrt(3)

Since A M = 0, the task changes no output of an old task's input, as far as M holds them. After the task M is extended by as few
directions as hold the threshold's part of C's energy (GPM), a part that grows linearly to 1 over the stream. C is measured in two
passes over the task's rows, before and after it; padding does not count, layers that read the same tensor share one C and M.

The release keeps the complement of M where that is smaller (DualGPM), which is the same subspace. `docs/methods/inflora.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from clbench import About, Example, Learner, Search, Task, hookimpl
from clbench.learning.input_spaces import extended, first_readers, input_moments, main_directions


@hookimpl
def methods() -> dict[str, type]:
    return {"inflora": InfLoRA}


@dataclass(eq=False)
class InfLoRA:
    """Train on each task the B of a new LoRA block whose A reads nothing of what the old tasks' inputs hold."""

    threshold: Annotated[
        float,
        "epsilon, part of the inputs' energy that the old subspace holds after the first task",
        Interval(ge=0, le=1),
        Search(choices=(0.9, 0.95, 0.98, 0.99, 0.995)),
    ] = 0.995
    past: dict[str, Tensor] = field(default_factory=dict, init=False)
    bases: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        learner.attached.add_blocks(self.past)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if learner.task_index > 0:
            self.past = learner.attached.blocks.freeze(learner.weights, learner.generator("block"))
        design = Design(learner, self.bases, task.train)
        training = learner.training(task.train)
        training.keep(design.values)  # found anew after a kill, a direction may come out with the other sign
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                design.hold_gradient()
                training.apply()
                design.hold_weights()
        self.bases = design.extend(task.train, grown(self.threshold, learner))
        return {**training.stats, "directions": sum(basis.shape[1] for basis in self.bases.values())}


class Design:
    """The designed and frozen A of the trainable block of every adapted layer, and the bases that they keep out of.

    Args:
        bases: of what the layers read of the old tasks, by the name of the first layer that reads it.
        examples: the new task's.
    """

    def __init__(self, learner: Learner, bases: dict[str, Tensor], examples: Sequence[Example]) -> None:
        self.learner, self.bases, self.weights = learner, bases, learner.weights
        self.readers = first_readers(learner)
        blocks = learner.attached.blocks
        moments = input_moments(learner, self.readers, examples)
        rows = {
            name: main_directions(bases.get(name), moment, blocks.rank) / 3**0.5 for name, moment in moments.items()
        }
        for name, (down, _) in zip(blocks.layers, blocks.pairs(self.weights, self.weights.data), strict=True):
            down.copy_(rows[self.readers[name]])
        positions = blocks.positions(self.weights)
        self.where = torch.cat([index.flatten() for key, index in positions.items() if key.startswith("A")])
        self.values = self.weights.data[self.where]

    def hold_gradient(self) -> None:
        """Take the A's out of the gradient: neither clipping nor the optimizer sees them."""
        self.weights.grad[self.where] = 0

    def hold_weights(self) -> None:
        """Set the A's as they were designed: weight decay would shrink them."""
        self.weights.data[self.where] = self.values

    def extend(self, examples: Sequence[Example], threshold: float) -> dict[str, Tensor]:
        """Return the bases with what the layers read of examples, as far as the threshold asks."""
        moments = input_moments(self.learner, self.readers, examples)
        return {name: extended(self.bases.get(name), moment, threshold) for name, moment in moments.items()}


def grown(threshold: float, learner: Learner) -> float:
    """Return the threshold of the current task: the option's after the first one, growing linearly towards 1."""
    return threshold + (1 - threshold) * learner.task_index / learner.stream_length
