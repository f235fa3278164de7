"""`Feed`, what gives batches: examples encoded once, in the order of a plan, counted as they are drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from clbench.data.tasks import Example, Task
from clbench.encoding.batches import Batch, accumulation_group, shuffled_batches, sorted_batches
from clbench.encoding.encoder import Encoder
from clbench.learning.stopwatch import Cost
from clbench.model.backbone import Backbone
from clbench.settings import Settings


class Feed:
    """Batches of examples, as the model of a backbone reads them.

    Attributes:
        encoder: turns examples into token ids, each once in a process.
    """

    def __init__(self, backbone: Backbone, encoder: Encoder, settings: Settings, cost: Cost) -> None:
        self.encoder = encoder
        self._backbone = backbone
        self._settings = settings
        self._cost = cost
        self._own: frozenset[Example] | None = None

    def begin_task(self, task: Task | None) -> None:
        """Count rows of other tasks as replayed from here on; without a task, none."""
        self._own = None if task is None else frozenset(task.train)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Return examples of the method's own choice as one batch."""
        self._cost.other_rows += sum(self._of_others(examples))
        return self._backbone.collate(self.encoder.encode(examples))

    def once(self, examples: Sequence[Example]) -> Iterator[Batch]:
        """Yield all examples once, the longest first, in evaluation mode; a batch's share is its part of all target tokens."""
        self._cost.other_rows += sum(self._of_others(examples))
        encoded = self.encoder.encode(examples)
        tokens = sum(len(row.labels) for row in encoded)
        size = self._settings.micro_batch or self._settings.batch_size
        for indices in sorted_batches([len(row.input_ids) for row in encoded], size):
            self._backbone.model.eval()
            rows = [encoded[i] for i in indices]
            yield self._backbone.collate(rows, sum(len(row.labels) for row in rows) / tokens, indices)

    def epochs(self, examples: Sequence[Example], generator: torch.Generator) -> Steps:
        """Yield the steps of the settings' epochs, in random order, each as its micro-batches (`batching`, `least_batch`)."""
        lengths, settings = [len(row.input_ids) for row in self.encoder.encode(examples)], self._settings
        plan = itertools.chain.from_iterable(
            shuffled_batches(
                lengths, settings.batch_size, generator, settings.batching == "bucketed", settings.least_batch
            )
            for _ in range(settings.epochs)
        )
        return self._steps(examples, plan)

    def draws(self, examples: Sequence[Example], generator: torch.Generator) -> Steps:
        """Yield steps without end: each a batch drawn uniformly, without repetition within the batch."""
        size = min(self._settings.batch_size, len(examples))
        plan = (torch.randperm(len(examples), generator=generator)[:size].tolist() for _ in itertools.count())
        return self._steps(examples, plan)

    def _of_others(self, examples: Sequence[Example]) -> list[bool]:
        """Return of each example whether it is no training row of the current task."""
        return [self._own is not None and example not in self._own for example in examples]

    def _steps(self, examples: Sequence[Example], plan: Iterable[Sequence[int]]) -> Steps:
        encoded = self.encoder.encode(examples)
        replayed = self._of_others(examples)
        settings, backbone = self._settings, self._backbone
        pad_id, left = backbone.tokenizer.pad_token_id, backbone.is_decoder

        def group(indices: Sequence[int]) -> list[Batch]:
            self._cost.rows += len(indices)
            self._cost.replayed_rows += sum(replayed[i] for i in indices)
            rows = [encoded[i] for i in indices]
            return accumulation_group(
                rows, settings.micro_batch, pad_id, backbone.device, left, settings.padding, indices
            )

        return Steps(iter(plan), group)


@dataclass(frozen=True)
class Steps:
    """The micro-batches of one step after the other, in the order of a plan; made when they are asked for."""

    plan: Iterator[Sequence[int]]
    group: Callable[[Sequence[int]], list[Batch]]

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        return self.group(next(self.plan))

    def skip(self, count: int) -> None:
        """Pass over the next steps."""
        for _ in itertools.islice(self.plan, count):
            pass
