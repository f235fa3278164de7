"""MoELoRA: a mixture of LoRA experts with a token-level router in every adapted layer, as the field's weak baseline.

    y = W x + s * sum_i p_i B_i A_i drop(x),   p = softmax(W_r x),   s = alpha / rank

There are as many experts as the stream has tasks, all made before the first task and all trained on every task; nothing is
frozen, no expert belongs to a task ("a vanilla MoE with LoRA number equal to the task number", arXiv:2502.17510). The experts
are one adapter of rank experts * rank whose blocks are weighed; the router's input has no dropout and is float32.

The load-balance loss (Switch Transformers) is off by default; Luo et al.'s (arXiv:2402.12851) contrastive loss between experts
is left out. `--save-adapter` writes the experts as a PEFT adapter, block i being expert i, and the routers into
`parts.safetensors` as `router.layers.N.weight`, (experts, inputs) of the N-th adapted layer; `Attached.load` reads both.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from clbench import About, Batch, Blocks, ClbenchError, Learner, Search, Task, Unless, hookimpl
from clbench.encoding.batches import IGNORED


@hookimpl
def methods() -> dict[str, type]:
    return {"moelora": MoELoRA}


@dataclass(eq=False)
class MoELoRA:
    """Train a mixture of LoRA experts with a router in every layer on each task in turn."""

    experts: Annotated[
        int | None, "LoRA experts a layer; none: as many as the stream has tasks", Ge(1), Search(choices=(2, 4, 8, 15))
    ] = None
    rank_mode: Annotated[
        Literal["per_expert", "split"], "each expert has the settings' rank, or a part of it (CoIN)", Unless(experts=1)
    ] = "per_expert"
    top_k: Annotated[int | None, "experts that a token goes to; none: all", Ge(1), Unless(experts=1), Search(1, 4)] = (
        None
    )
    load_balance: Annotated[
        float,
        "weight of the load-balance loss, a mean over layers; usual: 0.01",
        Ge(0),
        Unless(experts=1),
        Search(1e-3, 0.1, log=True),
    ] = 0.0
    router_start: Annotated[
        Literal["random", "zero"], "as a linear layer starts, or exactly uniform", Unless(experts=1)
    ] = "random"

    about: ClassVar[About] = About(several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        experts, rank = self.experts or learner.stream_length, learner.settings.lora_rank
        if (self.top_k or 1) > experts:
            raise ClbenchError(f"method 'moelora': top_k={self.top_k}, but there are {experts} experts")
        if self.load_balance and learner.settings.gradient_checkpointing:
            raise ClbenchError("method 'moelora': load_balance does not go with --gradient-checkpointing")
        if self.load_balance and learner.devices.count > 1:
            raise ClbenchError(
                "method 'moelora': load_balance is over a whole batch; it does not go with several devices"
            )
        if self.rank_mode == "split" and rank % experts:
            raise ClbenchError(f"method 'moelora': rank_mode=split cannot divide rank {rank} by {experts} experts")
        blocks = learner.attached.add_blocks({}, experts, rank // experts if self.rank_mode == "split" else rank)
        router = Router([layer.in_features for layer in blocks.layers.values()], experts, self.top_k)
        if self.router_start == "zero":
            for weight in router.parameters():
                nn.init.zeros_(weight)
        learner.attached.add_part("router", router)
        blocks.gate = router
        if self.load_balance:
            router.reads = what_layers_read(learner, blocks, router)
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training = learner.training(task.train)
        for batch in training:
            training.step(self.balanced_loss(learner, batch) if self.load_balance else learner.loss(batch))
        return training.stats

    def balanced_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """Return the cross-entropy plus the weighted load-balance loss over the tokens that are no padding."""
        prompt, answer = batch.attention_mask.bool(), batch.labels != IGNORED
        with learner.attached.part(Router).watched(prompt, answer) as losses:
            loss = learner.loss(batch)
        return loss + self.load_balance * torch.stack(losses).mean()


class Router(nn.Module):
    """The routers of all adapted layers: from a layer's number and input to its experts' weights, token by token."""

    def __init__(self, inputs: Sequence[int], experts: int, top_k: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, experts, bias=False) for size in inputs)  # add_blocks has seeded it
        self.top_k = top_k
        self.reads: dict[int, str] = {}  # by a layer's number: "prompt", "answer" or "both", one after the other
        self.masks: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []

    def forward(self, number: int, x: Tensor) -> Tensor:
        """Return weights (batch, tokens, experts) that sum to 1, for x of shape (batch, tokens, inputs)."""
        logits: Tensor = self.layers[number](x.float())
        kept = logits
        if self.top_k is not None:
            best = logits.topk(self.top_k).indices
            kept = torch.full_like(logits, float("-inf")).scatter(-1, best, logits.gather(-1, best))
        weights = kept.softmax(-1)
        if self.masks:
            sent = weights.detach() > 0 if self.top_k else logits == logits.amax(-1, keepdim=True)
            self.losses.append(load_balance(logits.softmax(-1), sent, self.masks[self.reads[number]]))
        return weights

    @contextmanager
    def watched(self, prompt: Tensor, answer: Tensor) -> Iterator[list[Tensor]]:
        """Collect every layer's load-balance loss within a `with` block, over the tokens that count, (batch, tokens) each."""
        both = torch.cat([prompt, answer], 1).sort(1, descending=True).values  # padding is on the right
        self.masks = {"prompt": prompt, "answer": answer, "both": both}
        self.losses = []
        try:
            yield self.losses
        finally:
            self.masks, self.losses = {}, []


def what_layers_read(learner: Learner, blocks: Blocks, router: Router) -> dict[int, str]:
    """Return by its number what each adapted layer reads, seen once on a prompt of 3 tokens and an answer of 2."""
    seen: dict[int, str] = {}

    def note(number: int, x: Tensor) -> Tensor:
        seen[number] = {3: "prompt", 2: "answer", 5: "both"}[x.shape[1]]
        weights: Tensor = router(number, x)
        return weights

    prompt, answer = (torch.full((1, size), learner.tokenizer.eos_token_id, device=learner.device) for size in (3, 2))
    blocks.gate = note
    with torch.no_grad():
        learner.passes.logits(Batch(prompt, torch.ones_like(prompt), answer))
    blocks.gate = router
    return seen


def load_balance(probabilities: Tensor, sent: Tensor, mask: Tensor) -> Tensor:
    """Return experts * sum_i f_i P_i: 1 where the load is even, the number of experts where one takes all.

    Args:
        probabilities: softmax over all experts, (batch, tokens, experts); P is their mean and carries the gradient.
        sent: whether a token goes to an expert, same shape; f is an expert's part of all those.
        mask: the tokens that count, (batch, tokens).
    """
    counted, experts = mask[..., None], probabilities.shape[-1]
    sent = (sent & counted).sum((0, 1)).float()
    return experts * (sent / sent.sum() * (probabilities * counted).sum((0, 1)) / mask.sum()).sum()
