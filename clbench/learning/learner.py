"""The `Learner`, what a method works with: a frozen model with trainable weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pluggy
import torch
from torch import Tensor

from clbench.answering.asker import Asker, Sampling
from clbench.data.tasks import Example, Task
from clbench.encoding.batches import Batch
from clbench.learning.bookmarks import Bookmarks
from clbench.learning.feed import Feed
from clbench.learning.passes import Passes
from clbench.learning.stopwatch import Cost
from clbench.learning.training import Training, Workbench, begin_training
from clbench.model.attached import Attached
from clbench.model.backbone import Backbone
from clbench.model.devices import ALONE, Devices
from clbench.model.weights import Weights
from clbench.seeds import derive_seed
from clbench.settings import Settings


class Learner:
    """A frozen backbone and what is trained on it: what is on the model, what computes, what gives batches, what answers.

    The hook `attach` decides what is put on the model; the core's default is the adapter that the settings describe.

    Attributes:
        backbone: the frozen model, its tokenizer, its device.
        model: the backbone's `transformers` model, with all that is attached.
        tokenizer: the backbone's.
        device: where the model is.
        settings: the run's settings.
        stream_length: how many tasks the run's stream has.
        task_index: the number of the task that is being learned, from 0.
        attached: what is on the model: `add_lora`, `add_blocks`, `add_part`, their weights, `save` and `load`.
        feed: what gives batches: `once`, `draws`, `batch`.
        passes: what computes: `losses`, `logits`, `backward`, `gradient`, `mean_gradient`, `squared_gradients`.
        asker: what answers.
        cost: what the current task has cost so far.
        devices: the processes that share the run; one, unless `torchrun` started it.
        bookmarks: from which a task that was broken off goes on.
        phase: the latest phase that `training` returned.
        losses: of each step of each phase that `training` returned in the current task.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        hook: pluggy.HookRelay | None = None,
        stream_length: int = 1,
        cost: Cost | None = None,
        devices: Devices = ALONE,
        bookmarks: Bookmarks | None = None,
    ) -> None:
        self.backbone = backbone
        self.model, self.tokenizer, self.device = backbone.model, backbone.tokenizer, backbone.device
        self.settings = settings
        self.stream_length = stream_length
        self.devices = devices
        self.task_index = 0
        self.cost = Cost(backbone.device) if cost is None else cost
        self.bookmarks = Bookmarks(self.cost) if bookmarks is None else bookmarks
        self.attached = Attached(backbone, settings)
        encoder = backbone.encoder(settings.max_input, settings.max_target or settings.max_answer, settings.template)
        self.feed = Feed(backbone, encoder, settings, self.cost)
        self.passes = Passes(self.attached, self.feed, self.cost, settings.gradient_checkpointing, devices)
        self.asker = Asker(backbone, self.attached, encoder, settings, devices)
        self.phase: Training | None = None
        self.losses: list[Tensor] = []
        self._hook = hook

    @property
    def weights(self) -> Weights:
        """All trainable weights as one flat vector."""
        return self.attached.weights

    def another(self, **changes: Any) -> Learner:
        """Return a bare learner on the same backbone, in the same task and counting into its cost.

        Only one learner at a time can have something on the model: detach what is `attached` here first, there after it.

        Args:
            changes: settings that it has otherwise.
        """
        settings = replace(self.settings, **changes)
        other = Learner(self.backbone, settings, None, self.stream_length, self.cost, self.devices, self.bookmarks)
        other.task_index = self.task_index
        return other

    def begin_task(self, index: int, task: Task | None = None) -> None:
        """Start the random streams of a task: dropout, shuffling and sampling depend on seed and index alone.

        Dropout and sampling, which draw from PyTorch's global stream, draw other numbers in each of several processes.

        Args:
            task: the task, so that rows of other tasks are counted as replayed.
        """
        self.task_index = index
        self.losses = []
        self.cost.restart()
        self.bookmarks.begin_task()
        self.feed.begin_task(task)
        torch.manual_seed(self.seed("task" if self.devices.first else f"task, process {self.devices.number}"))

    def seed(self, purpose: str) -> int:
        """Return a seed for one purpose within the current task, the same in every process."""
        return derive_seed(self.settings.seed, self.task_index, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """Return a fresh random generator (CPU) for one purpose within the current task."""
        return self.bookmarks.watch(torch.Generator().manual_seed(self.seed(purpose)))

    def loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy over the batch's target tokens, a scalar with its graph.

        Args:
            weights: a vector of shape (weights,) to compute with instead of the current weights, which stay as they
                are; the loss can be differentiated with respect to it.
        """
        return self.passes.loss(batch, weights)

    def training(
        self,
        examples: Sequence[Example],
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float | None = None,
    ) -> Training:
        """Return a new optimisation phase over the examples: the settings' epochs, a new optimizer and schedule.

        Args:
            learning_rate: a rate of the method's own, held constant, in place of the settings' rate and schedule.

        Raises:
            ValueError: there are no examples.
        """
        workbench = Workbench(self.passes, self.feed, self.settings, self.generator, self._took_step, self.bookmarks)
        self.phase = begin_training(workbench, examples, optimizer, learning_rate)
        self.losses.append(self.phase.losses)
        return self.phase

    def _took_step(self, step: int, steps: int, loss: Tensor) -> None:
        if self._hook is not None:
            self._hook.train_step(learner=self, step=step, steps=steps, loss=loss)

    def answer(
        self,
        examples: Sequence[Example],
        labels: Sequence[str] = (),
        max_answer: int | None = None,
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Return the model's greedy answers, in the order of the examples; the weights stay as they are.

        An answer ends after `max_answer` tokens of the settings or, without, of its task.

        Args:
            labels: the closed set of right answers, none for free text. Under the setting `answers=labels` the answer is the
                one of them that the model prefers; otherwise they are not looked at.
            max_answer: tokens after which every answer ends, whatever settings and task say.
            sampling: draw tokens at random instead.
        """
        return self.asker.answer(examples, labels, max_answer, sampling)
