"""SAPT-LoRA: shared attention over one LoRA block per task (Zhao et al., ACL 2024, arXiv:2401.08295).

Block t and its key k_t are trained on task t, then frozen; the query projection g is trained on every task. Every example has
one attention over the blocks, from its prompt's token embeddings, for all layers and every decoding step:

    q = g(max over tokens of the frozen embeddings, without padding),   a = softmax(k_i . q / (temperature * sqrt(d)))
    y = W x + s * sum_i a_i B_i A_i x

Attentive reflection holds a where it was: after task j its mean over the task's training rows is kept, and while later tasks
are learned, loss = cross-entropy + reflection * sum_j KL(that mean || a of inputs of task j), one batch of each earlier task
an optimizer step. Only embeddings, g and keys take part in it. Blocks, keys and means are all ordered oldest first.

`pseudo=memory` reads those inputs from the shared memory of real rows; `pseudo=generator` draws them from a second LoRA
adapter that has learned to write the task's prompts and is then thrown away (the paper; without the release's marks between a
prompt's parts). Departures from the released code: padding does not enter the maximum, the mean is over training rows (its
development rows are its test rows), and over examples, not over batches. The release adds the KL undivided in each micro-batch:
with its two a step, its lambda counts twice, and its 0.1 is `reflection=0.2` here.

`--save-adapter` writes all blocks as one PEFT adapter, oldest first, r ranks each, and into `parts.safetensors`
`attention.past_keys` (tasks - 1, d), `attention.key` (d), the latest, and g: `attention.down.weight`, `attention.up.weight`,
`attention.norm.weight`, `attention.norm.bias`. `Attached.load` reads them into a learner that this method attached itself to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn import functional

from clbench import About, Example, Learner, Memory, OnlyIf, Ratio, Search, Task, Unless, hookimpl
from clbench.answering.asker import Sampling
from clbench.learning.stopwatch import Cost
from clbench.model.soft_prompts import hook_reading

GENERATE = "__gen__"  # what the generator reads
TOP_K = 20  # likeliest tokens that it draws from


@hookimpl
def methods() -> dict[str, type]:
    return {"sapt": SAPT}


@dataclass(eq=False)
class SAPT:
    """Train a LoRA block per task and attend over all blocks, example by example, with a guard on the attention."""

    reflection: Annotated[
        float,
        "lambda, weight of the attentive reflection; paper: 0.1 (long), 0.5 (SuperNI)",
        Ge(0),
        Search(0.01, 5.0, log=True),
    ] = 0.1
    query: Annotated[Literal["code", "paper"], "SiLU after both linear layers (release), or between them"] = "code"
    bottleneck: Annotated[int, "width of the query projection", Ge(1), Search(choices=(50, 100, 200))] = 100
    temperature: Annotated[float, "of the attention, times sqrt(d)", Gt(0), Search(0.1, 10.0, log=True)] = 1.0
    pseudo: Annotated[
        Literal["memory", "generator"], "inputs of earlier tasks: remembered, or generated", Unless(reflection=0)
    ] = "memory"
    memory_ratio: Annotated[
        float,
        "earlier inputs, as part of each task's training rows",
        Interval(gt=0, le=1),
        Unless(reflection=0),
        Search(0.005, 0.1, log=True),
    ] = 0.02
    generator_steps: Annotated[
        int,
        "optimizer steps of the generator a task, in whole epochs",
        Ge(1),
        OnlyIf(pseudo="generator"),
        Unless(reflection=0),
    ] = 5000
    generator_rate: Annotated[
        float, "peak learning rate of the generator", Gt(0), OnlyIf(pseudo="generator"), Unless(reflection=0)
    ] = 1e-3
    past: dict[str, Tensor] = field(default_factory=dict, init=False)
    keys: Tensor | None = field(default=None, init=False)
    means: dict[str, Tensor] = field(default_factory=dict, init=False)
    memory: Memory = field(default_factory=Memory, init=False)

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        blocks = learner.attached.add_blocks(self.past)
        width = learner.model.get_input_embeddings().embedding_dim
        attention = SharedAttention(width, self.bottleneck, self.query, self.temperature, self.keys)
        learner.attached.add_part("attention", attention)
        blocks.isolated = True
        blocks.gate = attention.weigh
        hook_reading(learner.attached, partial(self.look, learner, attention))
        return True

    @staticmethod
    def look(learner: Learner, attention: "SharedAttention", ids: Tensor, mask: Tensor) -> None:
        """Attend over the blocks before the model reads its prompts."""
        attention.shares = attention(summarise(learner, ids, mask)).exp()

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if learner.task_index > 0:
            self.start_block(learner)
        reflection = reflection_on(learner, self.means, self.memory) if self.reflection else None
        training = learner.training(task.train)
        total = torch.zeros((), device=learner.device)
        training.keep(total)
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if reflection is not None:
                    divergence = reflection.divergence()
                    learner.passes.backward(self.reflection * divergence)
                    total += divergence.detach()
                training.apply()
        mean = mean_attention(learner, task.train)
        self.means[task.name] = mean
        if self.pseudo == "generator":
            self.memory.of_task[task.name] = self.generate(learner, task)
        else:
            self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {
            **training.stats,
            "reflection": float(total) / training.taken,
            "reflected_tasks": 0 if reflection is None else len(reflection.targets),
            "own_share": float(mean[-1]),
            "remembered": len(self.memory),
        }

    def start_block(self, learner: Learner) -> None:
        """Freeze block and key of the last task and begin new ones; g goes on."""
        attention = learner.attached.part(SharedAttention)
        self.past = learner.attached.blocks.freeze(learner.weights, learner.generator("block"))
        self.keys = torch.cat([attention.past_keys, attention.key.detach()[None]])
        attention.past_keys = self.keys
        key = torch.empty(attention.key.shape).uniform_(-1, 1, generator=learner.generator("key"))
        attention.key.data.copy_(key)

    def generate(self, learner: Learner, task: Task) -> tuple[Example, ...]:
        """Return inputs that a LoRA adapter of its own, trained on the task's inputs, writes, without empty ones."""
        weights, settings, rows = learner.weights.copy(), learner.settings, len(task.train)
        learner.attached.detach()
        writer = learner.another(
            learning_rate=self.generator_rate,
            epochs=max(1, round(self.generator_steps * settings.batch_size / rows)),
            max_target=settings.max_input,
            max_answer=settings.max_input,
        )
        count = int(self.memory_ratio * rows + 1e-9)
        try:
            writer.attached.add_lora()
            return self.write(writer, task, max(count, len(task.labels)) if count else 0)
        finally:
            writer.attached.detach()
            self.attach(learner)
            learner.weights.assign(weights)

    def write(self, writer: Learner, task: Task, count: int) -> tuple[Example, ...]:
        """Train the writer on instructions with their passages; return `count` of its texts as examples."""
        rows = tuple(Example(GENERATE, "", f"{row.head}{row.passage}", "") for row in task.train)
        training = writer.training(rows)
        for batch in training:
            training.step(writer.loss(batch))
        texts = writer.answer(rows[:count], sampling=Sampling(TOP_K))  # all rows ask the same
        head, tail = task.train[0].head, task.train[0].tail
        heads = [head if text.startswith(head) else "" for text in texts]  # most write the instruction as it was
        return tuple(Example(h, t.removeprefix(h), "", tail) for h, t in zip(heads, texts, strict=True) if t)


class SharedAttention(nn.Module):
    """Keys of all blocks and the query projection g: from summaries of examples to log-attention over blocks."""

    past_keys: Tensor
    shares: Tensor  # of the batch whose prompts were read last

    def __init__(
        self,
        width: int,
        bottleneck: int = 100,
        query: Literal["code", "paper"] = "code",
        temperature: float = 1.0,
        past_keys: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck, bias=False)  # seeded by `add_blocks`, as is the key
        self.up = nn.Linear(bottleneck, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.key = nn.Parameter(torch.empty(width).uniform_(-1, 1))
        self.register_buffer("past_keys", torch.zeros(0, width) if past_keys is None else past_keys)
        self.query, self.scale = query, temperature * width**0.5

    def forward(self, summaries: Tensor) -> Tensor:
        """Return log a, shape (..., blocks), oldest block first, for summaries (..., width)."""
        inner = self.down(summaries)
        query = functional.silu(self.up(inner)) if self.query == "code" else self.up(functional.silu(inner))
        keys = torch.cat([self.past_keys, self.key[None]])
        attention: Tensor = (self.norm(query) @ keys.T / self.scale).log_softmax(-1)
        return attention

    def weigh(self, number: int, x: Tensor) -> Tensor:
        """Return the attention of the batch whose prompts were read last, for every layer and token."""
        return self.shares[:, None]


class Reflection:
    """Inputs of earlier tasks, and how far their attention has moved from the mean that was kept of each task.

    Args:
        summaries: one tensor (rows, width) per earlier task.
        targets: the kept means, (earlier tasks, blocks), 0 for newer blocks.
        size: rows of each earlier task a step; all of them where there are fewer.
    """

    def __init__(
        self,
        attention: SharedAttention,
        summaries: list[Tensor],
        targets: Tensor,
        size: int,
        generator: torch.Generator,
        cost: Cost,
    ) -> None:
        self.attention, self.targets, self.size, self.generator, self.cost = attention, targets, size, generator, cost
        self.counts = [len(rows) for rows in summaries]
        self.summaries = torch.cat(summaries)
        self.shares = torch.tensor([1 / min(size, count) for count in self.counts], device=self.summaries.device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the positions of a batch's rows, without repetition within a task, and the task of each."""
        rows: list[Tensor] = []
        tasks: list[Tensor] = []
        start = 0
        for task, count in enumerate(self.counts):
            rows.append(start + torch.randperm(count, generator=self.generator)[: self.size])
            tasks.append(torch.full_like(rows[-1], task))
            start += count
        device = self.summaries.device
        return torch.cat(rows).to(device), torch.cat(tasks).to(device)

    def divergence(self) -> Tensor:
        """Return the sum over earlier tasks of the mean KL(target || attention) over a batch of the task's inputs."""
        rows, tasks = self.draw()
        self.cost.rows += len(rows)
        self.cost.replayed_rows += len(rows)
        moved = divergence(self.targets[tasks], self.attention(self.summaries[rows]))
        return (moved * self.shares[tasks]).sum()


def reflection_on(learner: Learner, means: Mapping[str, Tensor], memory: Memory) -> Reflection | None:
    """Return the reflection on all earlier tasks of which there are inputs; None if there are none."""
    names = [name for name in means if memory.of_task.get(name)]
    if not names:
        return None
    attention = learner.attached.part(SharedAttention)
    blocks = len(attention.past_keys) + 1
    targets = torch.stack([functional.pad(means[name], (0, blocks - len(means[name]))) for name in names])
    summaries = [summaries_of(learner, memory.of_task[name]) for name in names]
    size, generator = learner.settings.batch_size, learner.generator("reflection")
    return Reflection(attention, summaries, targets, size, generator, learner.cost)


def divergence(target: Tensor, log_found: Tensor) -> Tensor:
    """Return KL(target || found) over the last axis; where the target is 0, it counts 0."""
    return (torch.xlogy(target, target) - target * log_found).sum(-1)


def summarise(learner: Learner, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the maximum over an input's tokens, not its padding, of the frozen embeddings: (batch, width), float32."""
    with torch.no_grad():
        embedded: Tensor = learner.model.get_input_embeddings()(input_ids).float()
        return embedded.masked_fill(attention_mask[..., None] == 0, float("-inf")).amax(1)


def summaries_of(learner: Learner, examples: Sequence[Example]) -> Tensor:
    """Return the summaries of examples, (examples, width), in the order of their lengths."""
    return torch.cat([summarise(learner, b.input_ids, b.attention_mask) for b in learner.feed.once(examples)])


def mean_attention(learner: Learner, examples: Sequence[Example]) -> Tensor:
    """Return the mean attention over examples, shape (blocks,)."""
    with torch.no_grad():
        attention: Tensor = learner.attached.part(SharedAttention)(summaries_of(learner, examples))
        return attention.exp().mean(0)
