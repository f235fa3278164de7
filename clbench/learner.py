"""What a method works with: `Learner` (a frozen model with trainable weights) and `Training` (one optimisation phase)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from torch import Tensor

from .backbone import Backbone, attach_adapter, merged
from .batches import Batch, Encoded, accumulation_group, collate, longest_answer, shuffled_batches, sorted_batches
from .seeding import derive_seed
from .settings import Settings
from .streams import Example
from .weights import Weights

if TYPE_CHECKING:
    import pluggy


class Learner:
    """A frozen backbone with a LoRA adapter.

    Attributes:
        model: the `peft.PeftModel`.
        weights: all trainable weights as one flat vector.
        settings: the run's settings.
        device: where the model is.
    """

    def __init__(self, backbone: Backbone, settings: Settings, hook: pluggy.HookRelay | None = None) -> None:
        self.settings = settings
        self.device = backbone.device
        self.tokenizer = backbone.tokenizer
        self.encoder = backbone.encoder(settings.max_input, settings.max_target or settings.max_answer)
        self.model = attach_adapter(backbone, settings)
        self.weights = Weights(self.model)
        self.task_index = 0
        self._hook = hook
        self._module = self.model.get_base_model()
        self._generation = transformers.GenerationConfig(
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self._module.generation_config.eos_token_id,
            decoder_start_token_id=self._module.generation_config.decoder_start_token_id,
        )

    def detach(self) -> None:
        """Take the adapter off the backbone, which is then as it was loaded."""
        self.model.unload()

    def begin_task(self, index: int) -> None:
        """Start the random streams of a task: dropout, shuffling and sampling depend on seed and index alone."""
        self.task_index = index
        torch.manual_seed(self.seed("task"))

    def seed(self, purpose: str) -> int:
        """Return a seed for one purpose within the current task, the same in every process."""
        return derive_seed(self.settings.seed, self.task_index, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """Return a fresh random generator (CPU) for one purpose within the current task."""
        return torch.Generator().manual_seed(self.seed(purpose))

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the batch's target tokens, a scalar with its graph."""
        return self._module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        ).loss

    def training(self, examples: Sequence[Example]) -> Training:
        """Return a new optimisation phase over the examples: the settings' epochs, a new optimizer and schedule.

        Raises:
            ValueError: there are no examples.
        """
        if not examples:
            raise ValueError("no examples to train on")
        settings = self.settings
        encoded = self.encoder.encode(examples)
        lengths = [len(row.input_ids) for row in encoded]
        steps = -(-len(encoded) // settings.batch_size) * settings.epochs
        generator = self.generator("shuffle")
        plan = itertools.chain.from_iterable(
            shuffled_batches(lengths, settings.batch_size, generator) for _ in range(settings.epochs)
        )
        optimizer = self.new_optimizer(settings.learning_rate)
        schedule = transformers.get_scheduler(
            settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
            optimizer,
            num_warmup_steps=min(settings.warmup_steps, steps // 10),
            num_training_steps=steps,
        )
        return Training(self, self._groups(encoded, plan), steps, optimizer, schedule)

    def new_optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Return AdamW over the flat weights, with no history."""
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(
            [self.weights.vector], lr=learning_rate, weight_decay=self.settings.weight_decay, fused=fused
        )

    def draws(self, examples: Sequence[Example], purpose: str) -> Iterator[list[Batch]]:
        """Yield steps without end: each a batch drawn uniformly, without repetition within the batch."""
        encoded = self.encoder.encode(examples)
        generator = self.generator(purpose)
        size = min(self.settings.batch_size, len(encoded))
        plan = (torch.randperm(len(encoded), generator=generator)[:size].tolist() for _ in itertools.count())
        return self._groups(encoded, plan)

    def _groups(self, encoded: Sequence[Any], plan: Iterable[Sequence[int]]) -> Iterator[list[Batch]]:
        pad_id, micro_batch = self.tokenizer.pad_token_id, self.settings.micro_batch
        for indices in plan:
            yield accumulation_group([encoded[i] for i in indices], micro_batch, pad_id, self.device)

    def answer(self, examples: Sequence[Example]) -> list[str]:
        """Return the model's greedy answers, in the order of the examples; the weights stay as they are.

        An answer ends after `max_answer` tokens of the settings or, without, of its task.
        """
        encoded = self.encoder.encode(examples)
        answers = [""] * len(encoded)
        self._module.eval()
        with torch.no_grad(), merged(self.model):
            for longest, indices in self._answer_batches(examples, encoded):
                batch = collate([encoded[i] for i in indices], self.tokenizer.pad_token_id, self.device)
                tokens = self._module.generate(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    generation_config=self._generation,
                    max_new_tokens=longest,
                )
                texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
                for index, text in zip(indices, texts, strict=True):
                    answers[index] = text.strip()
        return answers

    def _answer_batches(
        self, examples: Sequence[Example], encoded: Sequence[Encoded]
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield an answer's length and the examples to be answered with it, long prompts first."""
        of_length = defaultdict(list)
        for index, example in enumerate(examples):
            of_length[self.settings.max_answer or longest_answer(example)].append(index)
        for longest, members in of_length.items():
            lengths = [len(encoded[index].input_ids) for index in members]
            for part in sorted_batches(lengths, self.settings.eval_batch_size):
                yield longest, [members[number] for number in part]

    def notify(self, step: int, steps: int, loss: Tensor) -> None:
        """Tell the watchers that an optimizer step was taken."""
        if self._hook is not None:
            self._hook.train_step(learner=self, step=step, steps=steps, loss=loss)

    def train_mode(self) -> None:
        """Switch dropout on."""
        self._module.train()


class Training:
    """One optimisation phase. Iterate it for batches; take a `step(loss)` for each.

    A method that reads or edits gradients calls `backward(loss)`, then, when `due` (all micro-batches of the step are
    in), reads `learner.weights.grad`, then `apply()`. Accumulation, clipping and the schedule happen here.

    Attributes:
        steps: optimizer steps that the phase will take; 0 where it has no end (`alongside`).
        taken: optimizer steps taken so far.
    """

    def __init__(
        self,
        learner: Learner,
        groups: Iterator[list[Batch]],
        steps: int,
        optimizer: torch.optim.Optimizer,
        schedule: Any = None,
        leader: Training | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self.steps = steps
        self.taken = 0
        self.optimizer = optimizer
        self._learner = learner
        self._weights = learner.weights
        self._groups = groups
        self._schedule = schedule
        self._leader = leader
        self._fixed_rate = learning_rate
        self._clip = learner.settings.clip_norm
        self._share = 1.0
        self._waiting = 0
        self._fresh = True
        self._loss: Tensor | None = None
        self._loss_sum = torch.zeros((), device=learner.device)

    def __iter__(self) -> Iterator[Batch]:
        return self.take(self.steps)

    def take(self, steps: int) -> Iterator[Batch]:
        """Yield the batches of the next optimizer steps."""
        for group in itertools.islice(self._groups, steps):
            self._learner.train_mode()
            for number, batch in enumerate(group):
                self._share, self._waiting = batch.share, len(group) - number
                yield batch

    @property
    def due(self) -> bool:
        """Whether the gradient of the whole step is in, so that `apply` may follow."""
        return self._waiting == 0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        if self._fixed_rate is not None:
            return self._fixed_rate
        if self._leader is not None:
            return self._leader.learning_rate
        return self.optimizer.param_groups[0]["lr"]

    @property
    def stats(self) -> Mapping[str, float]:
        """What is worth recording: optimizer steps taken and their mean loss (waits for the device)."""
        return {"steps": self.taken, "loss": float(self._loss_sum) / max(1, self.taken)}

    def step(self, loss: Tensor) -> bool:
        """Take the loss of the current batch; return whether that completed an optimizer step."""
        self.backward(loss)
        if self.due:
            self.apply()
            return True
        return False

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the current batch's loss, weighted by its share of the step."""
        if self._fresh:
            self._weights.zero_grad()
            self._fresh = False
        (loss if self._share == 1.0 else loss * self._share).backward()
        part = loss.detach().float() * self._share
        self._loss = part if self._loss is None else self._loss + part
        self._waiting -= 1

    def apply(self) -> None:
        """Clip the gradient, step the optimizer and the schedule; the gradient stays readable until `backward`."""
        if self._clip:
            norm = torch.linalg.vector_norm(self._weights.grad)
            self._weights.grad.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))
        if self._schedule is not None:
            self.optimizer.step()
            self._schedule.step()
        else:
            self._step_at(self.learning_rate)
        assert self._loss is not None, "apply() without backward()"
        self.taken += 1
        self._fresh = True
        self._loss_sum += self._loss
        if self._leader is None:
            self._learner.notify(self.taken, self.steps, self._loss)
        self._loss = None

    def _step_at(self, learning_rate: float) -> None:
        group = self.optimizer.param_groups[0]
        usual, group["lr"] = group["lr"], learning_rate
        self.optimizer.step()
        group["lr"] = usual

    def alongside(
        self,
        examples: Sequence[Example],
        optimizer: Literal["own", "shared"] = "own",
        learning_rate: float | None = None,
    ) -> Training:
        """Return a second phase without end over other examples (a memory), to be taken in between with `take(steps)`.

        Each of its steps draws a batch uniformly. Its learning rate is this phase's current one, unless given; the
        optimizer's moments are its own or shared with this phase; this phase's schedule does not advance.
        """
        learner = self._learner
        chosen = self.optimizer if optimizer == "shared" else learner.new_optimizer(learner.settings.learning_rate)
        groups = learner.draws(examples, "replay")
        return Training(learner, groups, 0, chosen, leader=self, learning_rate=learning_rate)
