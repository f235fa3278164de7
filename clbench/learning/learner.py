"""The `Learner`, what a method works with: a frozen model with trainable weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clbench.answering.asker import choose_labels, generate_answers
from clbench.data.tasks import Example, Task
from clbench.encoding.batches import Batch, accumulation_group, collate, shuffled_batches, sorted_batches, target_tokens
from clbench.encoding.encoder import Encoded
from clbench.learning.per_example_gradients import SampleSquares
from clbench.learning.stopwatch import Cost, Stopwatch
from clbench.learning.training import Training
from clbench.model.backbone import Backbone, attach_adapter
from clbench.model.fast.compiled import CompiledLoss, GraphedLoss, check_compile, compiled_loss
from clbench.model.fast.fused_lora import fuse_lora, restore_lora
from clbench.model.fast.fused_norms import fuse_norms, restore_norms
from clbench.model.gradient_checkpointing import set_checkpointing
from clbench.model.lora_blocks import ADAPTER_FILE, Blocks
from clbench.model.loss import batch_loss, scores_of_labels, with_weights
from clbench.model.weights import Weights
from clbench.seeds import derive_seed
from clbench.settings import Settings

if TYPE_CHECKING:
    import pluggy

PARTS = "parts.safetensors"  # in the folder of a saved adapter: what a method trains besides LoRA


class Learner:
    """A frozen backbone and what is trained on it: a LoRA adapter, a method's own modules.

    The adapter is plain (`add_lora`) or has rank blocks that can be frozen and gated (`add_blocks`); modules: `add_part`.

    The hook `attach` decides which; the core's default is the adapter that the settings describe.

    Attributes:
        model: the backbone's `transformers` model, the adapter's layers and the parts within it.
        adapter: the `peft.PeftModel` around it, None without LoRA.
        blocks: the adapter's rank blocks, where it has more than one (`add_blocks`).
        parts: the method's own modules by name.
        hooks: handles of the method's own forward hooks, which `detach` removes.
        weights: all trainable weights as one flat vector.
        settings: the run's settings.
        stream_length: how many tasks the run's stream has.
        device: where the model is.
        room: how large a batch of questions may be on that device.
        cost: what the current task has cost so far.
        phase: the latest phase that `training` returned.
    """

    def __init__(
        self, backbone: Backbone, settings: Settings, hook: pluggy.HookRelay | None = None, stream_length: int = 1
    ) -> None:
        self.settings = settings
        self.stream_length = stream_length
        self.device = backbone.device
        self.tokenizer = backbone.tokenizer
        self.encoder = backbone.encoder(
            settings.max_input, settings.max_target or settings.max_answer, settings.template
        )
        self.model = backbone.model
        self.room = backbone.room
        self.adapter: PeftModel | None = None
        self.blocks: Blocks | None = None
        self.parts: dict[str, nn.Module] = {}
        self.hooks: list[RemovableHandle] = []
        self.weights: Weights
        self.task_index = 0
        self.cost = Cost(Stopwatch(self.device))
        self.phase: Training | None = None
        self._own: frozenset[Example] | None = None
        self._hook = hook
        self._backbone = backbone
        self._compiled: CompiledLoss | GraphedLoss | None = None
        check_compile(settings, self.device)

    def add_lora(self) -> None:
        """Put a fresh LoRA adapter on the model, as the settings describe it; its weights are trainable."""
        self.adapter = attach_adapter(self._backbone, self.settings)
        fuse_lora(self.model)
        self._train_it()

    def add_blocks(self, past: Mapping[str, Tensor], count: int = 1, rank: int | None = None) -> Blocks:
        """Put a fresh LoRA adapter of several rank blocks on the model and return them; each is scaled as by `add_lora`.

        Args:
            past: frozen blocks of earlier tasks, as `Blocks.freeze` returned them; empty before the first task.
            count: trainable blocks.
            rank: rank of a block; none: the settings' one.
        """
        settings, rank = self.settings, rank or self.settings.lora_rank
        ranks = count * rank
        alpha = settings.lora_alpha * ranks / settings.lora_rank
        self.adapter = attach_adapter(self._backbone, replace(settings, lora_rank=ranks, lora_alpha=alpha))
        self.blocks = Blocks(self.model, rank, past)
        self._train_it()
        return self.blocks

    def add_part(self, name: str, part: nn.Module) -> None:
        """Put a module of the method's own on the model: a soft prompt, a router; what of it requires a gradient is trained.

        It does nothing by itself: the method hooks it into the model's forward pass.
        """
        self.model.add_module(name, part.to(self.device))
        self.parts[name] = part
        self._train_it()

    def _train_it(self) -> None:
        """Take hold of what is trainable now; from here on the backward pass computes activations again, if it is to."""
        self.weights = Weights(self.model)
        fuse_norms(self.model)
        if self.settings.gradient_checkpointing:
            set_checkpointing(self.model, True)
        unchanging = self.blocks is None and not self.parts  # what the model computes does not change between tasks
        self._compiled = compiled_loss(self.settings.compile, self.model, self.weights if unchanging else None)

    def detach(self) -> None:
        """Take adapter, parts and hooks off the backbone, which is then as it was loaded."""
        if self.settings.gradient_checkpointing:
            set_checkpointing(self.model, False)
        restore_norms(self.model)
        if self.adapter is not None:
            restore_lora(self.model)  # else the layers hold one another, and their memory
            self.adapter.unload()
        for name in self.parts:
            delattr(self.model, name)
        for handle in self.hooks:
            handle.remove()
        self.hooks.clear()
        self.adapter, self.blocks, self.parts, self.phase, self._compiled = None, None, {}, None, None

    def another(self, **changes: Any) -> Learner:
        """Return a bare learner on the same backbone, in the same task and counting into its cost.

        Only one learner at a time can have something on the model: `detach` this one first, and the other one after.

        Args:
            changes: settings that it has otherwise.
        """
        other = Learner(self._backbone, replace(self.settings, **changes), stream_length=self.stream_length)
        other.task_index, other.cost = self.task_index, self.cost
        return other

    def save(self, folder: Path) -> None:
        """Write what was put on the model: the adapter in PEFT's format, the parts as `parts.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.blocks is not None:
            self.blocks.save(self.adapter, folder)
        elif self.adapter is not None:
            self.adapter.save_pretrained(folder)
        if self.parts:
            save_file(self._state_of_parts(), folder / PARTS)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into the adapter and the parts that are on the model.

        What is frozen may have another size in the file than on the model (as many blocks as tasks were learned).

        Raises:
            ValueError: the files hold other tensors than the model.
        """
        if self.blocks is not None:
            self.blocks.load(self.adapter, folder)
        elif self.adapter is not None:
            set_peft_model_state_dict(self.adapter, load_file(folder / ADAPTER_FILE))
        if self.parts:
            found, wanted = load_file(folder / PARTS), self._state_of_parts()
            if found.keys() != wanted.keys():
                raise ValueError(f"{folder / PARTS} holds {sorted(found)}, the model {sorted(wanted)}")
            for name, tensor in wanted.items():
                place, _, leaf = name.rpartition(".")
                module = self.model.get_submodule(place)
                if leaf in module._buffers:
                    module.register_buffer(leaf, found[name].to(self.device))
                else:
                    tensor.copy_(found[name])

    def _state_of_parts(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor for name, part in self.parts.items() for key, tensor in part.state_dict().items()
        }

    def begin_task(self, index: int, task: Task | None = None) -> None:
        """Start the random streams of a task: dropout, shuffling and sampling depend on seed and index alone.

        Args:
            task: the task, so that rows of other tasks are counted as replayed.
        """
        self.task_index = index
        self.cost = Cost(Stopwatch(self.device))
        self._own = None if task is None else frozenset(task.train)
        torch.manual_seed(self.seed("task"))

    def seed(self, purpose: str) -> int:
        """Return a seed for one purpose within the current task, the same in every process."""
        return derive_seed(self.settings.seed, self.task_index, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """Return a fresh random generator (CPU) for one purpose within the current task."""
        return torch.Generator().manual_seed(self.seed(purpose))

    def loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy over the batch's target tokens, a scalar with its graph.

        Args:
            weights: a vector of shape (weights,) to compute with instead of the current weights, which stay as they
                are; the loss can be differentiated with respect to it.
        """
        with self.cost.forward_pass(len(batch.labels)):
            loss = self._compiled(batch) if self._compiled is not None and weights is None else None
            if loss is None:
                loss = batch_loss(self.model, self._call(weights), batch, choose=self._compiled is None)
        if loss.requires_grad:
            loss.register_hook(self.cost.count_backward)
        return loss

    def logits(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Return the model's scores of every token of the vocabulary, shape (batch, target, vocabulary).

        Those at a position are the scores for the label there.

        Args:
            weights: as in `loss`.
        """
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        with self.cost.forward_pass(len(batch.labels)):
            return scores_of_labels(self._call(weights)(**inputs, use_cache=False).logits, batch.labels)

    def _call(self, weights: Tensor | None) -> Callable[..., Any]:
        if weights is None:
            return self.model
        return with_weights(self.model, self.weights.views(weights), self.settings.gradient_checkpointing)

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

    def mean_gradient(self, examples: Sequence[Example]) -> Tensor:
        """Return the gradient, shape (weights,), of the mean loss over the examples' target tokens, without dropout."""
        self.weights.zero_grad()
        for batch in self.once(examples):
            self.backward(self.loss(batch) * batch.share)
        return self.weights.grad.clone()

    def squared_gradients(self, examples: Sequence[Example]) -> Tensor:
        """Return the mean over examples of the squared gradient of log p(target | prompt), shape (weights,).

        This is the diagonal of the empirical Fisher information: each example's gradient is squared on its own, the log
        likelihood is a sum over target tokens, dropout is off.
        """
        squares = SampleSquares(self.model, self.weights)
        with squares:
            for batch in self.once(examples):
                self.backward(self.loss(batch) * target_tokens(batch))
        self.weights.zero_grad()
        return squares.total / len(examples)

    def once(self, examples: Sequence[Example]) -> Iterator[Batch]:
        """Yield all examples once, in evaluation mode; a batch's share is its part of all target tokens."""
        encoded = self.encoder.encode(examples)
        tokens = sum(len(row.labels) for row in encoded)
        size = self.settings.micro_batch or self.settings.batch_size
        for indices in sorted_batches([len(row.input_ids) for row in encoded], size):
            self.model.eval()
            rows = [encoded[i] for i in indices]
            share = sum(len(row.labels) for row in rows) / tokens
            yield self.collate(rows, share)

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
        if not examples:
            raise ValueError("no examples to train on")
        settings = self.settings
        with self.cost.harness:
            lengths = [len(row.input_ids) for row in self.encoder.encode(examples)]
        steps = -(-len(examples) // settings.batch_size) * settings.epochs
        generator = self.generator("shuffle")
        plan = itertools.chain.from_iterable(
            shuffled_batches(lengths, settings.batch_size, generator) for _ in range(settings.epochs)
        )
        stepper = self.new_optimizer(learning_rate or settings.learning_rate, optimizer)
        shape = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
        schedule = transformers.get_scheduler(
            shape if learning_rate is None else "constant",
            stepper,
            num_warmup_steps=min(settings.warmup_steps, steps // 10),
            num_training_steps=steps,
        )
        self.phase = Training(self, self._groups(examples, plan), steps, stepper, schedule)
        return self.phase

    def new_optimizer(self, learning_rate: float, kind: Literal["adamw", "sgd"] = "adamw") -> torch.optim.Optimizer:
        """Return AdamW, or plain SGD, over the flat weights, with no history."""
        fused, decay = self.device.type in ("cpu", "cuda"), self.settings.weight_decay
        chosen = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
        return chosen([self.weights.vector], lr=learning_rate, weight_decay=decay, fused=fused)

    def draws(self, examples: Sequence[Example], purpose: str) -> Iterator[list[Batch]]:
        """Yield steps without end: each a batch drawn uniformly, without repetition within the batch."""
        generator = self.generator(purpose)
        size = min(self.settings.batch_size, len(examples))
        plan = (torch.randperm(len(examples), generator=generator)[:size].tolist() for _ in itertools.count())
        return self._groups(examples, plan)

    def _groups(self, examples: Sequence[Example], plan: Iterable[Sequence[int]]) -> Iterator[list[Batch]]:
        encoded = self.encoder.encode(examples)
        replayed = [self._own is not None and example not in self._own for example in examples]
        settings, pad_id, left = self.settings, self.tokenizer.pad_token_id, self._backbone.is_decoder
        for indices in plan:
            self.cost.rows += len(indices)
            self.cost.replayed_rows += sum(replayed[i] for i in indices)
            chosen = [encoded[i] for i in indices]
            yield accumulation_group(chosen, settings.micro_batch, pad_id, self.device, left, settings.padding, indices)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Return examples of the method's own choice as one batch."""
        return self.collate(self.encoder.encode(examples))

    def collate(self, rows: Sequence[Encoded], share: float = 1.0) -> Batch:
        """Return encoded rows as one batch, padded as the model reads it."""
        return collate(rows, self.tokenizer.pad_token_id, self.device, share, self._backbone.is_decoder)

    def answer(
        self,
        examples: Sequence[Example],
        top_k: int | None = None,
        repetition_penalty: float = 1.0,
        repeatable: str = "",
        max_answer: int | None = None,
        labels: Sequence[str] = (),
    ) -> list[str]:
        """Return the model's greedy answers, in the order of the examples; the weights stay as they are.

        An answer ends after `max_answer` tokens of the settings or, without, of its task.

        Args:
            labels: the closed set of right answers, none for free text. Under the setting `answers=labels` the answer is the
                one of them that the model prefers; otherwise they are not looked at.
            top_k: draw each token at random from the k likeliest ones instead (torch's global random stream).
            repetition_penalty: above 1, tokens that stand in the answer already become less likely.
            repeatable: a text whose tokens the penalty passes over.
            max_answer: tokens after which every answer ends, whatever settings and task say.
        """
        if labels and self.settings.answers == "labels":
            return choose_labels(self, examples, labels)
        drawn: dict[str, Any] = {} if top_k is None else {"do_sample": True, "top_k": top_k}
        if repetition_penalty != 1.0:
            free = self.tokenizer(repeatable, add_special_tokens=False)["input_ids"]
            drawn["penalty"] = {"penalty": repetition_penalty, "repeatable": free}
        return generate_answers(self, examples, max_answer, **drawn)

    def notify(self, step: int, steps: int, loss: Tensor) -> None:
        """Tell the watchers that an optimizer step was taken."""
        if self._hook is not None:
            self._hook.train_step(learner=self, step=step, steps=steps, loss=loss)

    def train_mode(self) -> None:
        """Switch dropout on."""
        if not self.model.training:  # to tell every part is a tenth of a small model's step
            self.model.train()
