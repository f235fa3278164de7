"""LwF: learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282), on one LoRA adapter.

The model as it was before the task answers the new task's inputs, and the new one is held to what it said:

    loss = cross-entropy + strength * mean over target tokens of KL(p_old^(1/T) || p_new^(1/T)),   both normalised

The paper's cross-entropy between the two differs from the divergence by a constant. An image has one output; a text has one a
token: the old model reads the right answer, token by token, and what it would have said next is the target. The old model is a
copy of the weights, without dropout; its outputs are computed when they are needed, not stored. The paper's warm-up trains the
new task's own output layer alone, and there is none. The first task has nothing to keep. What is uncertain: docs/methods/lwf.md.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from clbench import About, Batch, Learner, Search, Task, Unless, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"lwf": LwF}


@dataclass(eq=False)
class LwF:
    """Hold the model's answers to the new task's inputs near those that it gave before the task."""

    strength: Annotated[float, "lambda_o, weight of the old answers", Ge(0), Search(0.1, 10.0, log=True)] = 1.0
    temperature: Annotated[
        float, "T, by which both scores are divided", Gt(0), Unless(strength=0), Search(choices=(1.0, 2.0, 4.0))
    ] = 2.0

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        old = learner.weights.copy() if self.strength and learner.task_index else None
        training = learner.training(task.train)
        total = torch.zeros((), device=learner.device)
        training.keep(total)
        for batch in training:
            if old is None:
                training.step(learner.loss(batch))
            else:
                loss, distance = self.losses(learner, batch, old)
                total += distance.detach() * batch.share
                training.step(loss, penalty=self.strength * distance)
        return {**training.stats, "distillation": float(learner.devices.add_up(total)) / max(1, training.taken)}

    def losses(self, learner: Learner, batch: Batch, old: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of a batch, and how far its answers are from those of the old weights."""
        counted = batch.counted
        learner.model.eval()
        with torch.no_grad():
            before = learner.passes.logits(batch, old).flatten(0, 1)[counted].float()
        learner.passes.train_mode()
        now = learner.passes.logits(batch).flatten(0, 1)[counted].float()
        now.register_hook(learner.cost.count_backward)
        return functional.cross_entropy(now, batch.labels.flatten()[counted]), divergence(before, now, self.temperature)


def divergence(before: Tensor, now: Tensor, temperature: float) -> Tensor:
    """Return the mean KL divergence of softened scores (tokens, vocabulary), a scalar."""
    old, new = (scores.div(temperature).log_softmax(-1) for scores in (before, now))
    return (old.exp() * (old - new)).sum(-1).mean()
