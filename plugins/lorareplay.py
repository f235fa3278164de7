"""LoRAReplay: SeqLoRA with a small memory of earlier tasks.

`mix=concat` (the baseline of the literature) trains on the new task's rows and the memory as one shuffled set, with no
re-weighting. `mix=interleave` alternates `window` steps on the new task with `replay_steps` steps on the memory, all by one
optimizer: it spends the replay budget of Recurrent-KIF and equals that method with all-ones masks.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from clbench import About, Learner, Memory, OnlyIf, Ratio, Search, Task, Training, hookimpl


@hookimpl
def methods() -> dict[str, type]:
    return {"lorareplay": LoRAReplay}


@dataclass(eq=False)
class LoRAReplay:
    """Train one LoRA adapter on each task together with a small memory of the earlier ones."""

    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    mix: Annotated[Literal["concat", "interleave"], "one shuffled set, or alternate windows"] = "concat"
    window: Annotated[
        int,
        "steps on the new task before each replay",
        Ge(1),
        OnlyIf(mix="interleave"),
        Search(choices=(2, 4, 8, 16, 32)),
    ] = 8
    replay_steps: Annotated[
        int, "steps on the memory after each window", Ge(1), OnlyIf(mix="interleave"), Search(choices=(1, 2, 4, 8))
    ] = 4
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if self.mix == "interleave" and self.memory:
            training = self.interleave(learner, task)
        else:
            training = learner.training(task.train + self.memory.examples)
            for batch in training:
                training.step(learner.loss(batch))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "remembered": len(self.memory)}

    def interleave(self, learner: Learner, task: Task) -> Training:
        """Alternate windows of new and remembered batches; return the phase."""
        training = learner.training(task.train)
        replay = training.alongside(self.memory.examples, optimizer="shared")
        for batch in training:
            if training.step(learner.loss(batch)) and training.taken % self.window == 0:
                for remembered in replay.take(self.replay_steps):
                    replay.step(learner.loss(remembered))
        return training
