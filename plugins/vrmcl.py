"""VR-MCL: variance-reduced meta continual learning (Wu et al. 2024, ICLR), adapted to LoRA.

From the second task on every batch is one meta-iteration. Inner SGD steps on K slices of the batch lead from theta_b to phi;
the hypergradient g_b is the gradient, with respect to theta_b, of the loss of phi on the batch and as many remembered rows.
Its variance is reduced by what the same data and the same dropout give at the previous weights (eq. 4, STORM):

    ghat_b = g_b(theta_b) + momentum * (ghat_{b-1} - g_b(theta_{b-1}))

`order=first` takes the gradient at phi as the hypergradient; `order=second` differentiates through the inner steps (small
models: it keeps the graphs of all of them). The outer step is the common recipe's AdamW fed with ghat, or SGD.

A batch size K times as large makes an inner step of every whole batch. The default inner rate is the
release's, for SGD on a vision model; what validation rows chose for the embedded backbone stands in its preset. The released code
clips the gradient at each of the two weights on its own before it combines them, and learns the inner rates, one a weight; here
ghat is clipped as a whole, and the inner rate is a constant.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clbench import About, Batch, Learner, Memory, Ratio, Search, Task, Training, Unless, hookimpl
from clbench.model.devices import Devices
from clbench.settings import Settings

Weighted = tuple[Batch, float]  # a batch and its weight in the outer loss


@hookimpl
def methods() -> dict[str, type]:
    return {"vrmcl": VRMCL}


@dataclass(eq=False)
class VRMCL:
    """Meta-learn on the new task and a memory at once, with a variance-reduced hypergradient."""

    momentum: Annotated[
        float,
        "r: weight of the variance reduction; 0 is plain meta-learning",
        Interval(ge=0, lt=1),
        Search(choices=(0.0, 0.15, 0.25, 0.5)),
    ] = 0.25
    inner_rate: Annotated[
        float,
        "alpha: learning rate of the inner SGD steps; the release's, for vision: choose it on validation rows",
        Ge(0),
        Search(1e-4, 1e-1, log=True),
    ] = 0.1
    inner_steps: Annotated[int, "K: slices of a batch, one inner step on each", Ge(1), Search(choices=(1, 2, 4, 8))] = 4
    order: Annotated[Literal["first", "second"], "the gradient at phi, or through the inner steps"] = "first"
    outer_at: Annotated[
        Literal["last", "mean"],
        "outer loss after the last inner step, or mean over all (release)",
        Unless(inner_steps=1),
    ] = "last"
    replay_weight: Annotated[
        float, "weight of a remembered row in the outer loss; of a new one: 1", Ge(0), Search(0.1, 2.0, log=True)
    ] = 0.5
    outer_optimizer: Annotated[Literal["adamw", "sgd"], "what takes the outer step"] = "adamw"
    memory_ratio: Annotated[
        float, "part of each task's training rows to remember", Interval(gt=0, le=1), Search(0.005, 0.1, log=True)
    ] = 0.02
    carry: Annotated[bool, "begin a task with the last one's ghat (release), not anew", Unless(momentum=0)] = False
    memory: Memory = field(default_factory=Memory, init=False)
    carried: Tensor | None = field(default=None, init=False)  # carry: ghat at the end of the last task

    about: ClassVar[About] = About(memory=Ratio("memory_ratio"), several_devices=True, resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if self.memory:
            training = learner.training(task.train, self.outer_optimizer)
            self.learn_meta(learner, training)
        else:
            training = learner.training(task.train)
            for batch in training:
                training.step(learner.loss(batch))
        self.memory.remember(task, self.memory_ratio, learner.seed("memory"))
        return {**training.stats, "remembered": len(self.memory)}

    def learn_meta(self, learner: Learner, training: Training) -> None:
        """Take one meta-iteration a batch."""
        replay = learner.feed.draws(self.memory.examples, learner.generator("replay"))
        last = Iteration(self.carried, learner.weights.copy())
        training.keep(last)
        for group in training.groups():
            slices = [part for batch in group for part in batch.split(self.slice_rows(learner.settings))]
            outer = self.weigh(group, next(replay))
            before = random_state(learner.device)
            loss, gradient = self.hypergradient(learner, learner.weights.data, slices, outer)
            if last.reduced is not None and self.momentum:
                set_random_state(learner.device, before)
                _, stale = self.hypergradient(learner, last.weights, slices, outer)
                gradient = gradient + self.momentum * (last.reduced - stale)  # eq. 4
            last.reduced, last.weights = gradient, learner.weights.copy()
            training.supply(gradient, loss)
            training.apply()
        if self.carry:
            self.carried = last.reduced

    def slice_rows(self, settings: Settings) -> int:
        """Return how many rows a slice has."""
        return max(1, settings.batch_size // self.inner_steps)

    def weigh(self, new: Sequence[Batch], remembered: Sequence[Batch]) -> list[Weighted]:
        """Return the outer batches, each with its weight in the outer loss; the weights are shares of all rows."""
        weighted = [(batch, 1.0) for batch in new] + [(batch, self.replay_weight) for batch in remembered]
        rows = sum(len(batch.labels) for batch, _ in weighted)
        return [(batch, weight * len(batch.labels) / rows) for batch, weight in weighted]

    def hypergradient(
        self, learner: Learner, theta: Tensor, slices: Sequence[Batch], outer: Sequence[Weighted]
    ) -> tuple[Tensor, Tensor]:
        """Return the outer loss and its gradient with respect to theta; the learner's weights stay as they are.

        Args:
            theta: where to start from, shape (weights,).
            slices: batches of the inner steps.
            outer: pairs of a batch and its weight in the outer loss.
        """
        second, devices = self.order == "second", learner.devices
        start = phi = theta.detach().clone().requires_grad_()
        loss, gradient = torch.zeros((), device=theta.device), torch.zeros_like(theta)
        share = 1.0 if self.outer_at == "last" else 1 / len(slices)
        with attention_of(second):
            for number, (part, weight) in enumerate(own_rows(devices, (part, 1.0)) for part in slices):
                step = learner.passes.gradient(learner.loss(part, phi) * weight, phi, create_graph=second)
                phi = phi - self.inner_rate * devices.add_up(step)
                if not second:
                    phi = phi.detach().requires_grad_()
                if self.outer_at == "mean" or number == len(slices) - 1:
                    for batch, weight in (own_rows(devices, weighted) for weighted in outer):
                        partial = learner.loss(batch, phi) * (weight * share)
                        # the graph of the inner steps is shared by all outer losses
                        gradient += learner.passes.gradient(partial, start if second else phi, retain_graph=second)
                        loss += partial.detach()
        return devices.add_up(loss), devices.add_up(gradient)


def own_rows(devices: Devices, weighted: Weighted) -> Weighted:
    """Return this device's rows of a batch, with their share of its weight."""
    batch, weight = weighted
    part = devices.part(batch)
    return part, weight * part.share / batch.share


@dataclass
class Iteration:
    """What a meta-iteration leaves to the next one: ghat_{b-1}, where there is one, and theta_{b-1}."""

    reduced: Tensor | None
    weights: Tensor


def attention_of(second: bool) -> AbstractContextManager[None]:
    """Return a context in which attention can be differentiated twice, if that is asked for."""
    return sdpa_kernel(SDPBackend.MATH) if second else nullcontext()


def random_state(device: torch.device) -> Tensor:
    """Return the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Set the state of the generator that dropout draws from."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
