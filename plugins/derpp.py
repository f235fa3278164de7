"""DER++: dark experience replay (Buzzega et al. 2020, NeurIPS, arXiv:2004.07211), on answers' tokens.

The memory keeps, beside each row, the scores z (logits) that the model gave to its answer's tokens when its task was learned.
From the second task on each step adds two batches drawn from the memory:

    loss = CE(new rows) + alpha |h(x') - z'|^2 + beta CE(x'', y'')

where the square is a mean over the answer tokens and the scores kept at each. A vocabulary has 32,000 to 50,000 scores a token,
128 kB to 200 kB; by default the `scores` highest are kept, with their tokens: 8 bytes each. The paper's
nets have 10 to 200 scores, so that its alpha means about the same for 128 of them; over a whole vocabulary the mean is
taken of scores that hardly matter. What other tokens get is left to the cross-entropy.

The paper takes rows into its memory by reservoir sampling, with the scores of that moment; here a task's rows are chosen when it
ends, by the rule of all replay methods, and the scores are those of its last weights, without dropout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval, Le
from torch import Tensor

from clbench import About, Batch, Example, Learner, Memory, Ratio, Search, Task, Training, hookimpl
from clbench.encoding.batches import IGNORED


@hookimpl
def methods() -> dict[str, type]:
    return {"derpp": DERPP}


@dataclass(eq=False)
class DERPP:
    """Train on each task and on a memory at once, whose answers keep their scores as well as their labels."""

    alpha: Annotated[
        float, "weight of the kept scores' mean square error", Ge(0), Search(choices=(0.1, 0.2, 0.5, 1.0))
    ] = 0.1
    beta: Annotated[float, "weight of the memory's cross-entropy", Ge(0), Search(choices=(0.1, 0.5, 1.0))] = 0.5
    scores: Annotated[
        int | None,
        "scores kept of each answer token, the highest ones; none: the whole vocabulary's",
        Ge(1),
        Le(10**6),
        Search(choices=(16, 128, 1024)),
    ] = 128
    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    memory: Memory = field(default_factory=Memory, init=False)
    counts: list[int] = field(default_factory=list, init=False)  # answer tokens of each remembered row
    kept: Tensor | None = field(default=None, init=False)  # (all answer tokens, scores)
    places: Tensor | None = field(default=None, init=False)  # the tokens that they are the scores of; none: of all

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        training = learner.training(task.train)
        if self.memory:
            self.learn_with_memory(learner, training)
        else:
            for batch in training:
                training.step(learner.loss(batch))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        if task.name in self.memory.of_task:
            self.keep_scores(learner, self.memory.of_task[task.name])
        return {**training.stats, "remembered": len(self.memory)}

    def learn_with_memory(self, learner: Learner, training: Training) -> None:
        """Take each step on a batch of the task and two of the memory; the loss that is recorded is the task's."""
        terms = (
            ("scores", self.alpha, lambda batch: self.alpha * self.score_loss(learner, batch)),
            ("labels", self.beta, lambda batch: self.beta * learner.loss(batch)),
        )
        of_memory = [
            (learner.feed.draws(self.memory.examples, learner.generator(name)), loss)
            for name, weight, loss in terms
            if weight
        ]
        for group in training.groups():
            gradient, loss = learner.passes.step_gradient([(group, learner.loss)])
            more, _ = learner.passes.step_gradient([(next(draws), loss_of) for draws, loss_of in of_memory])
            training.supply(gradient + more, loss)
            training.apply()

    def keep_scores(self, learner: Learner, rows: Sequence[Example]) -> None:
        """Take in the scores of a task's remembered rows at the current weights, after those of earlier tasks."""
        values, places = dict[int, Tensor](), dict[int, Tensor]()
        with torch.no_grad():
            for batch in learner.feed.once(rows):
                scores, answered = learner.passes.logits(batch), batch.labels != IGNORED
                for i, row in enumerate(batch.rows):
                    values[row] = scores[i, answered[i]].float()
                    if self.scores is not None:
                        values[row], chosen = values[row].topk(min(self.scores, scores.shape[2]))
                        places[row] = chosen.int()
        in_order = range(len(rows))
        self.counts = self.counts + [len(values[row]) for row in in_order]
        self.kept = appended(self.kept, [values[row] for row in in_order])
        if self.scores is not None:
            self.places = appended(self.places, [places[row] for row in in_order])

    def score_loss(self, learner: Learner, batch: Batch) -> Tensor:
        """Return how far the model's scores of remembered answers are from the kept ones."""
        loss = self.distance(learner.passes.logits(batch), batch)
        loss.register_hook(learner.cost.count_backward)
        return loss

    def distance(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return the mean square of what scores (batch, target, vocabulary) differ by from the kept ones of the same rows."""
        assert self.kept is not None, "no memory without scores"
        begins = [0, *accumulate(self.counts)]
        own = [place for row in batch.rows for place in range(begins[row], begins[row + 1])]
        now = scores.flatten(0, 1)[batch.counted].float()
        if self.places is not None:
            now = now.gather(1, self.places[own].long())
        return (now - self.kept[own]).square().mean()


def appended(old: Tensor | None, new: Sequence[Tensor]) -> Tensor:
    """Return rows, and more rows below them."""
    return torch.cat([*new] if old is None else [old, *new])
