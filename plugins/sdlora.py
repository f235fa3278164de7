"""SD-LoRA: scalable decoupled LoRA (Wu et al., ICLR 2025, arXiv:2501.13198), for language models.

As IncLoRA, each task trains a block of its own on top of the frozen ones; but of a frozen block only the direction is frozen. Its
magnitude in each layer, one number, goes on being trained:

    y = W x + s * (sum_i m_i B_i A_i / (||B_i|| ||A_i||) + m_t B_t A_t) x,   Frobenius norms, old B_i and A_i frozen

When a task ends, its m_i becomes m_t ||B_t|| ||A_t||, so that the next one starts at the function that this one ended at. The
released code, for images, has one magnitude a task for all layers and starts all of them at 0.8 again with every task; here m_t
alone starts there. `docs/methods/sdlora.md`.

`--save-adapter` writes all blocks, the old ones of norm 1, as one PEFT adapter, oldest first, r ranks each, and the magnitudes
into `parts.safetensors` as `magnitudes.values`, (adapted layers, tasks).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from clbench import About, Blocks, Learner, Task, hookimpl

START = 0.8  # the release's


@hookimpl
def methods() -> dict[str, type]:
    return {"sdlora": SDLoRA}


@dataclass(eq=False)
class SDLoRA:
    """Train a new LoRA block on each task, and the magnitudes of all earlier blocks, whose directions are frozen."""

    past: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        blocks = learner.attached.add_blocks(self.past)
        magnitudes = Magnitudes(blocks, learner.stream_length)
        learner.attached.add_part("magnitudes", magnitudes)
        blocks.gate = magnitudes
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        magnitudes = learner.attached.part(Magnitudes)
        if learner.task_index > 0:
            self.start_block(learner)
        training = learner.training(task.train)
        for batch in training:
            training.step(learner.loss(batch))
        return {**training.stats, **magnitudes.means()}

    @torch.no_grad()
    def start_block(self, learner: Learner) -> None:
        """Freeze the direction of the last task's block, whose magnitude takes up its norm, and begin a new one."""
        blocks, weights, magnitudes = learner.attached.blocks, learner.weights, learner.attached.part(Magnitudes)
        latest = magnitudes.values.data[:, magnitudes.count - 1]
        for layer, pair in enumerate(blocks.pairs(weights, weights.data)):
            for part in pair:
                norm = part.norm()
                latest[layer] *= norm
                part /= norm.clamp_min(torch.finfo(norm.dtype).tiny)
        self.past = blocks.freeze(weights, learner.generator("block"))
        magnitudes.count += 1
        magnitudes.values.data[:, magnitudes.count - 1] = START


class Magnitudes(nn.Module):
    """The magnitudes of all blocks in every adapted layer, (layers, tasks), those of the stream's later tasks among them."""

    def __init__(self, blocks: Blocks, tasks: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.full((len(blocks.layers), tasks), START))
        self.count = 1 + sum(len(down) for down, _ in blocks.past_pairs()[:1]) // blocks.rank  # blocks that there are

    def forward(self, number: int, x: Tensor) -> Tensor:
        """Return the magnitudes of a layer's blocks, shape (1, 1, blocks), whatever it reads."""
        return self.values[number, : self.count][None, None]

    def means(self) -> dict[str, float]:
        """Return the mean magnitude over the layers of the oldest block and of the trainable one."""
        means = self.values.detach().mean(0)
        return {"oldest_magnitude": float(means[0]), "own_magnitude": float(means[self.count - 1])}
