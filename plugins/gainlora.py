"""GainLoRA: gated integration of low-rank adaptation (Liang, Chen and Li, NeurIPS 2025, arXiv:2505.15424).

Each task trains a LoRA block and a gate, which then are frozen; a gate says for each example how much of its block counts, for
all layers and every decoding step. With p the mean of an input's frozen token embeddings, without padding:

    y = W x + s * sum_i a_i(p) B_i A_i x,   a = |2 sigmoid(4 cos(key, g(p))) - 1|,   g(p) = silu(up silu(down p))

A gate starts as a copy of the last one, with a new key. That its a is 0 on the old tasks' inputs is held by projection (GPM): an
orthonormal basis holds what each of down, up and key has read of the old tasks; the new key starts in the main direction of the
new task's g outside of it, and each step's change of the three is projected out of it.

`base` is what keeps the blocks apart: `inflora` designs and freezes A, `olora` penalises A's overlap. As in the release, old
blocks give no gradient to what they read. Its departures from this page, left out: after each step it scales the gate's rows
back to their length, which moves the old inputs' g again; its mean is over the padding, too. `pool=max` is an earlier form of it.

`--save-adapter` writes all blocks as one PEFT adapter, oldest first, r ranks each, and into `parts.safetensors` the gates:
`gates.down.weight`, `gates.up.weight`, `gates.key` of the latest, `gates.past_...` of the earlier ones, stacked, oldest first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn import functional

from clbench import About, Example, Learner, OnlyIf, Search, Task, hookimpl
from clbench.learning.input_spaces import SecondMoment, extended, main_directions, outside
from clbench.model.soft_prompts import hook_reading

from .inflora import Design, grown  # mypy knows this folder by another name
from .olora import OLoRA

PARTS = {"pooled": "down", "hidden": "up", "features": "key"}  # what is read, and which part of a gate reads it


@hookimpl
def methods() -> dict[str, type]:
    return {"gainlora": GainLoRA}


@dataclass(eq=False)
class GainLoRA:
    """Train a LoRA block and a gate on each task; the gate is held shut for the inputs of all earlier tasks."""

    base: Annotated[Literal["inflora", "olora"], "what keeps a block apart from the earlier ones"] = "inflora"
    threshold: Annotated[
        float,
        "part of the layers' input energy that the old subspace holds after the first task",
        Interval(ge=0, le=1),
        OnlyIf(base="inflora"),
        Search(choices=(0.9, 0.95, 0.98, 0.99, 0.995)),
    ] = 0.995
    lambda1: Annotated[
        float, "weight of the orthogonality of A", Ge(0), OnlyIf(base="olora"), Search(0.01, 10.0, log=True)
    ] = 0.5
    gate_threshold: Annotated[
        float,
        "the same part of what the gates read",
        Interval(ge=0, le=1),
        Search(choices=(0.9, 0.95, 0.98, 0.99, 0.995)),
    ] = 0.995
    bottleneck: Annotated[int, "width of a gate", Ge(1), Search(choices=(50, 100, 200))] = 100
    pool: Annotated[Literal["mean", "max"], "of an input's token embeddings"] = "mean"
    past: dict[str, Tensor] = field(default_factory=dict, init=False)
    bases: dict[str, Tensor] = field(default_factory=dict, init=False)
    gates: dict[str, Tensor] = field(default_factory=dict, init=False)
    gate_bases: dict[str, Tensor] = field(default_factory=dict, init=False)

    about: ClassVar[About] = About(resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        blocks = learner.attached.add_blocks(self.past)
        gates = Gates(learner.model.get_input_embeddings().embedding_dim, self.bottleneck, self.gates)
        learner.attached.add_part("gates", gates)
        blocks.isolated = True
        blocks.gate = gates.weigh
        hook_reading(learner.attached, partial(self.look, learner, gates))
        return True

    def look(self, learner: Learner, gates: "Gates", ids: Tensor, mask: Tensor) -> None:
        """Weigh the blocks before the model reads its prompts."""
        gates.shares = gates(self.pooled(learner, ids, mask))

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        gates, weights = learner.attached.part(Gates), learner.weights
        if learner.task_index > 0:
            self.past = learner.attached.blocks.freeze(weights, learner.generator("block"))
            self.gates = gates.freeze()
        self.start_key(learner, task.train)
        design = Design(learner, self.bases, task.train) if self.base == "inflora" else None
        apart, positions = OLoRA(lambda1=self.lambda1), learner.attached.blocks.positions(weights)
        apart.past = self.past
        hold = Hold(gates, self.gate_bases)
        training = learner.training(task.train)
        if design is not None:
            training.keep(design.values)
        for batch in training:
            training.backward(learner.loss(batch))
            if training.due:
                if design is None:
                    apart.add_gradient(weights.data, positions, weights.grad)
                else:
                    design.hold_gradient()
                training.apply()
                hold.project()
                if design is not None:
                    design.hold_weights()
        if design is not None:
            self.bases = design.extend(task.train, grown(self.threshold, learner))
        own_share = self.extend_gate_bases(learner, task.train)
        report = {"own_share": own_share, "gate_directions": sum(len(basis.t()) for basis in self.gate_bases.values())}
        return {**training.stats, **report}

    def pooled(self, learner: Learner, ids: Tensor, mask: Tensor) -> Tensor:
        """Return mean or maximum over an input's tokens, not its padding, of the frozen embeddings: (batch, width), float32."""
        with torch.no_grad():
            embedded: Tensor = learner.model.get_input_embeddings()(ids).float()
            if self.pool == "max":
                return embedded.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)
            return (embedded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    @torch.no_grad()
    def start_key(self, learner: Learner, examples: Sequence[Example]) -> None:
        """Set the key to the main direction of the examples' g outside of the old tasks', at the length of a random key."""
        gates = learner.attached.part(Gates)
        moment = self.moments(learner, examples)["features"]
        key = torch.empty(gates.key.shape).uniform_(-1, 1, generator=learner.generator("key")).to(gates.key.device)
        (direction,) = main_directions(self.gate_bases.get("features"), moment, 1)
        gates.key.copy_(direction * key.norm() if direction.any() else key)

    @torch.no_grad()
    def moments(self, learner: Learner, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return the second moments of what each part of the latest gate reads of examples."""
        gates, found = learner.attached.part(Gates), {name: SecondMoment() for name in PARTS}
        for batch in learner.feed.once(examples):
            for name, rows in gates.read(self.pooled(learner, batch.input_ids, batch.attention_mask)).items():
                found[name].add(rows)
        return {name: moment.mean for name, moment in found.items()}

    @torch.no_grad()
    def extend_gate_bases(self, learner: Learner, examples: Sequence[Example]) -> float:
        """Take in what the gate reads of the task just learned; return the mean of its a over the examples."""
        threshold = grown(self.gate_threshold, learner)
        moments = self.moments(learner, examples)
        self.gate_bases = {
            name: extended(self.gate_bases.get(name), moment, threshold) for name, moment in moments.items()
        }
        gates = learner.attached.part(Gates)
        shares = [
            gates(self.pooled(learner, batch.input_ids, batch.attention_mask))[:, -1]
            for batch in learner.feed.once(examples)
        ]
        return float(torch.cat(shares).mean())


class Gates(nn.Module):
    """The gates of all blocks: from pooled embeddings of examples to how much of each block counts.

    Args:
        past: `down` (gates, bottleneck, width), `up` (gates, width, bottleneck) and `key` (gates, width) of the frozen ones,
            oldest first; empty in the first task.
    """

    past_down: Tensor
    past_up: Tensor
    past_key: Tensor
    shares: Tensor  # of the batch whose prompts were read last

    def __init__(self, width: int, bottleneck: int, past: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck, bias=False)  # seeded by `add_blocks`, as is the key
        self.up = nn.Linear(bottleneck, width, bias=False)
        self.key = nn.Parameter(torch.empty(width).uniform_(-1, 1))
        shapes = {"down": (0, bottleneck, width), "up": (0, width, bottleneck), "key": (0, width)}
        for name, shape in shapes.items():
            self.register_buffer(f"past_{name}", past.get(name, torch.zeros(shape)))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return a, shape (batch, blocks), oldest block first, for pooled embeddings (batch, width)."""
        with torch.no_grad():
            hidden = functional.silu(torch.einsum("bd,thd->bth", pooled, self.past_down))
            features = functional.silu(torch.einsum("bth,tdh->btd", hidden, self.past_up))
            old = openness(features, self.past_key)
        return torch.cat([old, openness(self.read(pooled)["features"], self.key)[:, None]], 1)

    def read(self, pooled: Tensor) -> dict[str, Tensor]:
        """Return what each part of the latest gate reads: the pooled embeddings, the hidden layer, and g."""
        hidden = functional.silu(self.down(pooled))
        return {"pooled": pooled, "hidden": hidden, "features": functional.silu(self.up(hidden))}

    def weigh(self, number: int, x: Tensor) -> Tensor:
        """Return the gates of the batch whose prompts were read last, for every layer and token."""
        return self.shares[:, None]

    def part(self, name: str) -> Tensor:
        """Return down (bottleneck, width), up (width, bottleneck) or the key (1, width) of the latest gate, not a copy."""
        found = {"down": self.down.weight, "up": self.up.weight, "key": self.key}[name].data
        return found[None] if name == "key" else found

    def freeze(self) -> dict[str, Tensor]:
        """Append the latest gate to the frozen ones, and return those; it goes on as it is."""
        for name in PARTS.values():
            own = self.part(name) if name == "key" else self.part(name)[None]
            setattr(self, f"past_{name}", torch.cat([getattr(self, f"past_{name}"), own]))
        return {"down": self.past_down, "up": self.past_up, "key": self.past_key}


class Hold:
    """Holds the latest gate's answers to what the old tasks gave it to read, from here on."""

    def __init__(self, gates: Gates, bases: Mapping[str, Tensor]) -> None:
        self.held = [(gates.part(part), gates.part(part).clone(), bases[name]) for name, part in PARTS.items() if bases]

    def project(self) -> None:
        """Take out of each part's change what old inputs would notice."""
        for part, start, basis in self.held:
            part.copy_(start + outside(basis, (part - start).t()).t())


def openness(features: Tensor, keys: Tensor) -> Tensor:
    """Return a = |2 sigmoid(4 cos) - 1| of features (..., width) and keys: 0 where they are orthogonal, at most 0.964."""
    return (2 * functional.cosine_similarity(features, keys, dim=-1)).tanh().abs()
