"""`Passes`, what computes: losses, scores and gradients of the model with what is attached to it, counted and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clbench.data.tasks import Example
from clbench.encoding.batches import IGNORED, Batch, target_tokens
from clbench.learning.feed import Feed
from clbench.learning.per_example_gradients import SampleSquares
from clbench.learning.stopwatch import Cost
from clbench.model.attached import Attached
from clbench.model.devices import ALONE, Devices
from clbench.model.loss import Call, batch_loss, with_weights
from clbench.model.weights import Weights

Term = tuple[Sequence[Batch], Callable[[Batch], Tensor]]  # the micro-batches of a step, and the loss of one


class Passes:
    """Forward and backward passes through a model.

    Args:
        checkpointed: the model computes activations again in the backward pass.
        devices: share out what is asked of examples, not of a batch.
    """

    def __init__(
        self, attached: Attached, feed: Feed, cost: Cost, checkpointed: bool = False, devices: Devices = ALONE
    ) -> None:
        self.cost = cost
        self.devices = devices
        self._attached = attached
        self._feed = feed
        self._checkpointed = checkpointed

    @property
    def weights(self) -> Weights:
        """All trainable weights as one flat vector."""
        return self._attached.weights

    def loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy over the batch's target tokens, a scalar with its graph.

        Args:
            weights: a vector of shape (weights,) to compute with instead of the current weights, which stay as they
                are; the loss can be differentiated with respect to it.
        """
        compiled = self._attached.compiled
        with self.cost.forward_pass(len(batch.labels)):
            loss = compiled(batch) if compiled is not None and weights is None else None
            if loss is None:
                together = not self._checkpointed and self._attached.treats_rows_alike()
                loss = batch_loss(self._attached.model, self._call(weights), batch, compiled is None, together)
        if loss.requires_grad:
            loss.register_hook(self.cost.count_backward)
        return loss

    def mean_loss(self, examples: Sequence[Example]) -> float:
        """Return the mean loss over the examples' target tokens, without dropout, as no part of a method's cost."""
        model = self._attached.model
        training, total = model.training, 0.0
        with torch.no_grad():
            for batch in self._feed.once(examples):
                total += float(batch_loss(model, model, batch)) * batch.share
        model.train(training)
        return total

    @torch.no_grad()
    def losses(self, examples: Sequence[Example]) -> Tensor:
        """Return each example's mean cross-entropy over its target tokens, shape (examples,), without dropout."""
        found = torch.zeros(len(examples), device=self.weights.data.device)
        for batch in self.devices.mine(self._feed.once(examples)):
            scores = self.logits(batch).float().transpose(1, 2)
            each = functional.cross_entropy(scores, batch.labels, ignore_index=IGNORED, reduction="none")
            found[list(batch.rows)] = each.sum(1) / (batch.labels != IGNORED).sum(1)
        return self.devices.add_up(found)

    def logits(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Return the model's scores of every token of the vocabulary, shape (batch, target, vocabulary).

        Those at a position are the scores for the label there.

        Args:
            weights: as in `loss`.
        """
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        with self.cost.forward_pass(len(batch.labels)):
            scores: Tensor = self._call(weights)(**inputs, use_cache=False).logits
        return scores

    def _call(self, weights: Tensor | None) -> Call:
        model: Call = self._attached.model
        if weights is None:
            return model
        return with_weights(self._attached.model, self.weights.views(weights), self._checkpointed)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to `weights.grad`."""
        with self.cost.harness:
            loss.backward()

    def gradient(self, loss: Tensor, weights: Tensor, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
        """Return the gradient of a loss with respect to the vector it was computed with; `weights.grad` stays."""
        with self.cost.harness:
            return torch.autograd.grad(
                loss, weights, create_graph=create_graph, retain_graph=retain_graph or create_graph
            )[0]

    def step_gradient(self, terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
        """Return the gradient, shape (weights,), of a sum of losses, and the sum; `weights.grad` is used for it.

        Args:
            terms: each the micro-batches of one step, as `Feed.draws` gives them, and the loss of one.
        """
        self.weights.zero_grad()
        total = torch.zeros((), device=self.weights.data.device)
        for group, loss_of in terms:
            for batch in map(self.devices.part, group):
                loss = loss_of(batch) * batch.share
                self.backward(loss)
                total += loss.detach().float()
        return self.devices.add_up(self.weights.grad.clone()), self.devices.add_up(total)

    def mean_gradient(self, examples: Sequence[Example]) -> Tensor:
        """Return the gradient, shape (weights,), of the mean loss over the examples' target tokens, without dropout."""
        self.weights.zero_grad()
        for batch in self.devices.mine(self._feed.once(examples)):
            self.backward(self.loss(batch) * batch.share)
        self.weights.grad.copy_(self.devices.add_up(self.weights.grad))
        return self.weights.grad.clone()

    def squared_gradients(self, examples: Sequence[Example]) -> Tensor:
        """Return the mean over examples of the squared gradient of log p(target | prompt), shape (weights,).

        This is the diagonal of the empirical Fisher information: each example's gradient is squared on its own, the log
        likelihood is a sum over target tokens, dropout is off.
        """
        squares = SampleSquares(self._attached.model, self.weights)
        with squares:
            for batch in self.devices.mine(self._feed.once(examples)):
                self.backward(self.loss(batch) * target_tokens(batch))
        self.weights.zero_grad()
        return self.devices.add_up(squares.total) / len(examples)

    def train_mode(self) -> None:
        """Switch dropout on."""
        if not self._attached.model.training:  # to tell every part is a tenth of a small model's step
            self._attached.model.train()
