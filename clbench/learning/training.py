"""`Training`, one optimisation phase: batches, accumulation, clipping, optimizer, schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from clbench.data.tasks import Example
from clbench.encoding.batches import Batch, count_batches
from clbench.learning.bookmarks import Bookmarks, contents_of, fill
from clbench.learning.divergence import NotFiniteError, describe
from clbench.learning.feed import Feed, Steps
from clbench.learning.passes import Passes
from clbench.settings import Settings


@dataclass(frozen=True)
class Workbench:
    """What every phase of a learner works with.

    Attributes:
        generator: from a purpose to a fresh random generator.
        took_step: told of every step of a phase that leads: its number from 1, all steps, the loss.
        bookmarks: from which a task that was broken off goes on.
    """

    passes: Passes
    feed: Feed
    settings: Settings
    generator: Callable[[str], torch.Generator]
    took_step: Callable[[int, int, Tensor], None]
    bookmarks: Bookmarks

    def new_optimizer(self, learning_rate: float, kind: Literal["adamw", "sgd"] = "adamw") -> torch.optim.Optimizer:
        """Return AdamW, or plain SGD, over the flat weights, with no history."""
        vector, decay = self.passes.weights.vector, self.settings.weight_decay
        fused = vector.device.type in ("cpu", "cuda")
        chosen = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
        return chosen([vector], lr=learning_rate, weight_decay=decay, fused=fused)


class Training:
    """One optimisation phase. Iterate it for batches; take a `step(loss)` for each.

    A method that reads or edits gradients calls `backward(loss)`, then, when `due` (all micro-batches of the step are
    in), reads `learner.weights.grad`, then `apply()`. Accumulation, clipping and the schedule happen here.

    Attributes:
        steps: optimizer steps that the phase will take; 0 where it has no end (`alongside`).
        taken: optimizer steps taken so far.
        losses: of each of the steps, NaN where it is not taken yet; empty where the phase has no end.
    """

    def __init__(
        self,
        bench: Workbench,
        groups: Steps,
        steps: int,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler | None = None,
        leader: Training | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self.steps = steps
        self.taken = 0
        self.optimizer = optimizer
        self._bench = bench
        self._passes = bench.passes
        self._weights = bench.passes.weights
        self._groups = groups
        self._schedule = schedule
        self._leader = leader
        self._alongside: list[Training] = []
        self._kept: list[object] = []
        self._marked = (0, 0)  # how many of both there were when the loop over the phase began
        self._fixed_rate = learning_rate
        self._clip = bench.settings.clip_norm
        self._share = 1.0
        self._waiting = 0
        self._fresh = True
        self._loss: Tensor | None = None
        self._loss_sum = torch.zeros((), device=self._weights.data.device)
        self.losses = torch.full((steps,), math.nan, device=self._weights.data.device)

    def keep(self, *values: object) -> None:
        """Name what the method's loop over the whole phase holds from one step to the next, before the loop begins.

        With it a method that declares `About.resumes_within_tasks` goes on from a step. Nothing need be named of the phase
        and those alongside, the weights, or random generators that the learner gave.

        Args:
            values: tensors that the loop writes into, and dataclasses whose fields (tensors, plain values) it changes.

        Raises:
            TypeError: a value is neither.
        """
        for value in values:
            contents_of(value)
        self._kept += values

    def __iter__(self) -> Iterator[Batch]:
        return self.take()

    def take(self, steps: int | None = None) -> Iterator[Batch]:
        """Yield the batches of the next optimizer steps; none: of all."""
        for group in self.groups(steps):
            for number, batch in enumerate(map(self._passes.devices.part, group)):
                self._share, self._waiting = batch.share, len(group) - number
                yield batch

    def groups(self, steps: int | None = None) -> Iterator[list[Batch]]:
        """Yield all micro-batches of a step at once, for a method that then gives its gradient with `supply`.

        On several devices they are whole on each of them.
        """
        if steps is None and self._leader is None and self._bench.bookmarks.are_taken:
            yield from self._marked_groups(self._bench.bookmarks)
            return
        for _ in range(self.steps if steps is None else steps):
            group = self._next_group()
            if group is None:
                return
            yield group

    def _marked_groups(self, bookmarks: Bookmarks) -> Iterator[list[Batch]]:
        """Yield those of the whole phase that are not yet taken, with bookmarks in between."""
        self._marked = len(self._alongside), len(self._kept)
        taken = bookmarks.enter(self)
        while taken < self.steps and (group := self._next_group()) is not None:
            yield group
            taken += 1
            bookmarks.step(self, taken)
        bookmarks.leave(self, taken)

    def _next_group(self) -> list[Batch] | None:
        with self._passes.cost.harness:
            group = next(self._groups, None)
            self._passes.train_mode()
        return group

    @property
    def can_be_marked(self) -> bool:
        """Whether it stands between two steps, and with it what was alongside or kept when its loop began, and no more."""
        at_rest = all(one._loss is None for one in (self, *self._alongside))
        return at_rest and self._marked == (len(self._alongside), len(self._kept))

    def place(self) -> dict[str, Any]:
        """Return where the phase stands between two steps; the tensors are not copied."""
        weights = {"weights": self._weights.data} if self._leader is None else {}
        stepper, schedule = self.optimizer.state_dict(), self._schedule
        return {
            **weights,
            "taken": self.taken,
            "losses": self.losses,
            "loss_sum": self._loss_sum,
            "moments": list(stepper["state"].values()),
            "groups": stepper["param_groups"],
            "schedule": None if schedule is None else schedule.state_dict(),
            "kept": [contents_of(value) for value in self._kept],
            "alongside": [one.place() for one in self._alongside],
        }

    def put_back(self, place: Mapping[str, Any], passed: int) -> None:
        """Set the phase, its weights and what the method keeps to a place, `passed` batches on in the plan.

        Raises:
            ValueError: it is that of a phase of another kind.
        """
        self._groups.skip(passed)
        if self._leader is None:
            self._weights.assign(place["weights"])
        self.taken = place["taken"]
        fill(self.losses, place["losses"])
        fill(self._loss_sum, place["loss_sum"])
        self.optimizer.load_state_dict({"state": dict(enumerate(place["moments"])), "param_groups": place["groups"]})
        if self._schedule is not None:
            self._schedule.load_state_dict(place["schedule"])
        for value, contents in zip(self._kept, place["kept"], strict=True):
            fill(value, contents)
        for one, its in zip(self._alongside, place["alongside"], strict=True):
            one.put_back(its, 0)  # its plan is where its generator is

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
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    @property
    def stats(self) -> dict[str, float]:
        """What is worth recording: optimizer steps taken and their mean loss (waits for the device)."""
        return {"steps": self.taken, "loss": float(self._loss_sum) / max(1, self.taken)}

    def step(self, loss: Tensor, penalty: Tensor | None = None) -> bool:
        """Take the loss of the current batch, as `backward` does; return whether that completed an optimizer step."""
        self.backward(loss, penalty)
        if self.due:
            self.apply()
            return True
        return False

    def backward(self, loss: Tensor, penalty: Tensor | None = None) -> None:
        """Add the gradient of the current batch's loss, weighted by its share of the step.

        Args:
            penalty: a scalar with its graph whose gradient is added likewise, and which is no part of the loss that is recorded.
        """
        if self._fresh:
            self._weights.zero_grad()
            self._fresh = False
        whole = loss if penalty is None else loss + penalty
        self._passes.backward(whole if self._share == 1.0 else whole * self._share)
        part = loss.detach().float() * self._share
        self._loss = part if self._loss is None else self._loss + part
        self._waiting -= 1
        if self.due and self._passes.devices.count > 1:
            self._add_up(self._loss)

    def _add_up(self, loss: Tensor) -> None:
        """Take gradient and loss of the whole step, of which each device has a part."""
        with self._passes.cost.harness:
            total = self._passes.devices.add_up(torch.cat([self._weights.grad, loss[None]]))
            self._weights.grad.copy_(total[:-1])
            self._loss = total[-1].clone()  # a view would keep all of it

    def supply(self, gradient: Tensor, loss: Tensor) -> None:
        """Give the gradient of the whole step, shape (weights,), and its loss, in place of `backward`."""
        self._weights.grad.copy_(gradient)
        self._loss = loss.detach().float()
        self._waiting, self._fresh = 0, False

    def clip(self) -> None:
        """Scale the gradient down to the settings' `clip_norm`, if it is longer.

        Raises:
            NotFiniteError: it is not finite; seen on a CPU alone, since a GPU would have to be waited for.
        """
        if self._clip:
            norm = torch.linalg.vector_norm(self._weights.grad)
            self._check_finite(norm)
            self._weights.grad.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))

    def apply(self, clip: bool = True) -> None:
        """Clip the gradient, step the optimizer and the schedule; the gradient stays readable until `backward`.

        Raises:
            NotFiniteError: loss or gradient is not finite; seen on a CPU alone, since a GPU would have to be waited for.
        """
        assert self._loss is not None, "apply() without backward() or supply()"
        with self._passes.cost.harness:
            self._check_finite(self._loss)
            if clip:
                self.clip()
            if self._schedule is not None:
                self.optimizer.step()
                self._schedule.step()
            else:
                self._step_at(self.learning_rate)
        if self.taken < len(self.losses):
            self.losses[self.taken] = self._loss
        self.taken += 1
        self._fresh = True
        self._loss_sum += self._loss
        if self._leader is None:
            with self._passes.cost.harness:
                self._bench.took_step(self.taken, self.steps, self._loss)
        self._loss = None

    def _check_finite(self, number: Tensor) -> None:
        if number.device.type == "cpu" and not number.isfinite():
            raise NotFiniteError(describe(self._weights, self.losses[: self.taken], gradient=True))

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
        bench = self._bench
        chosen = self.optimizer if optimizer == "shared" else bench.new_optimizer(bench.settings.learning_rate)
        groups = bench.feed.draws(examples, bench.generator("replay"))
        second = Training(bench, groups, 0, chosen, leader=self, learning_rate=learning_rate)
        self._alongside.append(second)
        return second


def begin_training(
    bench: Workbench, examples: Sequence[Example], optimizer: Literal["adamw", "sgd"], learning_rate: float | None
) -> Training:
    """Return a new phase over the examples: the settings' epochs, a new optimizer and schedule.

    Args:
        learning_rate: a rate of the method's own, held constant, in place of the settings' rate and schedule.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("no examples to train on")
    settings = bench.settings
    with bench.passes.cost.harness:
        groups = bench.feed.epochs(examples, bench.generator("shuffle"))
    steps = count_batches(len(examples), settings.batch_size, settings.least_batch) * settings.epochs
    stepper = bench.new_optimizer(learning_rate or settings.learning_rate, optimizer)
    shape = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    schedule = transformers.get_scheduler(
        shape if learning_rate is None else "constant",
        stepper,
        num_warmup_steps=warmup_steps(settings, steps),
        num_training_steps=steps,
    )
    return Training(bench, groups, steps, stepper, schedule)


def warmup_steps(settings: Settings, steps: int) -> int:
    """Return the warm-up of a task with so many steps: as many as the settings say, as far as they allow."""
    if settings.warmup_part is None:
        return settings.warmup_steps
    return min(settings.warmup_steps, int(settings.warmup_part * steps + 1e-9))
