"""L2P: learning to prompt (Wang et al. 2022, CVPR, arXiv:2112.08654), for language models.

The backbone is frozen; a pool of soft prompts P and keys K is trained on all tasks. The query q(x) is a frozen function of
the input. The prompts of the `top` keys nearest to it by cosine stand before the input's embeddings; keys are pulled to
the queries that chose them:

    loss = cross-entropy - pull * mean over examples of sum over chosen m of cos(q, K_m)

`query=encoder` is the masked mean of the frozen encoder's last states without prompt, `query=embedding` that of the token
embeddings, for models without an encoder. The default learning rate is the released codes' one; LoRA's would leave prompts
as they are. `--save-adapter` writes
`parts.safetensors` with `pool.prompts` (pool, length, width) and `pool.keys` (pool, width); `Attached.load` reads it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from clbench import About, ClbenchError, Learner, Search, Task, hookimpl
from clbench.model.soft_prompts import hook_prompt, vocabulary_rows


@hookimpl
def methods() -> dict[str, type]:
    return {"l2p": L2P}


@dataclass(eq=False)
class L2P:
    """Train a pool of soft prompts, from which every example chooses by its own query; the model is frozen."""

    pool: Annotated[int, "M: prompts in the pool", Ge(1), Search(choices=(5, 10, 20, 40))] = 10
    length: Annotated[int, "L_p: vectors of a prompt", Ge(1), Search(choices=(5, 10, 20))] = 5
    top: Annotated[int, "N: prompts that an example chooses; at most pool", Ge(1), Search(1, 5)] = 3
    pull: Annotated[float, "lambda: weight of the cosine between query and chosen keys", Ge(0), Search(0.05, 1.0)] = 0.5
    learning_rate: Annotated[
        float, "of Adam, constant; usual for prompts: 0.03 to 0.3", Gt(0), Search(0.01, 1.0, log=True)
    ] = 0.03
    query: Annotated[
        Literal["auto", "encoder", "embedding"],
        "mean of the frozen encoder's states, or of embeddings; auto: the first there is",
    ] = "auto"
    batchwise: Annotated[bool, "in training, the prompts that the batch chose most, for all its rows (release)"] = False

    about: ClassVar[About] = About(learning_rate="learning_rate", resumes_within_tasks=True)

    def __post_init__(self) -> None:
        if self.top > self.pool:
            raise ValueError(f"top={self.top} prompts cannot be chosen from a pool of {self.pool}")

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        if self.query == "encoder" and not learner.model.config.is_encoder_decoder:
            raise ClbenchError("method 'l2p': query=encoder needs a model with an encoder; use query=embedding")
        generator = learner.generator("pool")
        prompts = vocabulary_rows(learner.backbone, self.pool * self.length, generator)
        prompts = prompts.view(self.pool, self.length, -1)
        keys = torch.empty(self.pool, prompts.shape[2]).uniform_(-1, 1, generator=generator)
        pool = Pool(prompts, keys, self.top, self.batchwise)
        learner.attached.add_part("pool", pool)
        hook_prompt(learner.attached, partial(self.prompts, learner, pool), "before")
        return True

    def prompts(self, learner: Learner, pool: "Pool", ids: Tensor, mask: Tensor) -> Tensor:
        """Return the prompts that a batch's rows chose, (batch, top * length, width)."""
        chosen: Tensor = pool(self.ask(learner, ids, mask))
        return chosen

    @torch.no_grad()
    def ask(self, learner: Learner, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the queries (batch, width), without dropout and gradient, and without prompt: no hook sees `forward`."""
        if self.query == "embedding" or not learner.model.config.is_encoder_decoder:
            return masked_mean(learner.model.get_input_embeddings()(ids), mask)
        encoder = learner.model.get_encoder()
        training = encoder.training
        encoder.eval()
        try:
            return masked_mean(encoder.forward(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        finally:
            encoder.train(training)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        pool, total = learner.attached.part(Pool), torch.zeros((), device=learner.device)
        pool.chosen = torch.zeros(self.pool, device=learner.device)
        training = learner.training(task.train, learning_rate=self.learning_rate)
        training.keep(total, pool.chosen)
        for batch in training:
            loss = learner.loss(batch)
            total += pool.similarity.detach() * batch.share
            training.step(loss - self.pull * pool.similarity)
        cosine = float(total) / (training.taken * self.top)
        return {**training.stats, "cosine": cosine, "keys_used": int((pool.chosen > 0).sum())}


class Pool(nn.Module):
    """Prompts and their keys: from queries to the prompts of the nearest keys.

    Attributes:
        similarity: of the last batch, the mean over examples of the summed cosine to the chosen keys, in [-top, top].
        chosen: how often each key was chosen in training.
    """

    def __init__(self, prompts: Tensor, keys: Tensor, top: int, batchwise: bool = False) -> None:
        super().__init__()
        self.prompts, self.keys = nn.Parameter(prompts), nn.Parameter(keys)
        self.top, self.batchwise = top, batchwise
        self.similarity = torch.zeros(())
        self.chosen: Tensor | None = None

    def forward(self, queries: Tensor) -> Tensor:
        """Return prompts (batch, top * length, width) for queries (batch, width)."""
        cosine = functional.normalize(queries.float(), dim=1) @ functional.normalize(self.keys, dim=1).T
        indices = cosine.topk(self.top, 1).indices
        if self.training:
            if self.batchwise:
                counts = torch.zeros_like(cosine.detach()).scatter_(1, indices, 1.0).sum(0)
                indices = counts.sort(descending=True, stable=True).indices[: self.top].expand_as(indices)
            self.similarity = cosine.gather(1, indices).sum(1).mean()
            if self.chosen is not None:
                self.chosen += torch.zeros_like(cosine.detach()).scatter_(1, indices, 1.0).sum(0)
        return self.prompts[indices].flatten(1, 2)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of states (batch, tokens, width) over the tokens of the mask, in float32."""
    weights = mask[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1)
