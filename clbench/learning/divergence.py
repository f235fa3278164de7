"""Training that goes wrong: a loss that grows, numbers that are not finite, and what that looks like it comes from."""

from __future__ import annotations

from torch import Tensor

from clbench.model.weights import Weights

GROWN = 1.0  # nats by which the loss must end above its start to be more than noise between batches
WORSE = (
    0.5  # the same for rows that are the same before and after; a method may hold its weights back, and learn nothing
)
MOST = 16  # steps over whose losses a phase's start and end are averaged: a quarter of them, at most so many
HUGE = 100.0  # no trained weight comes near it: LoRA's are around 0.1


class NotFiniteError(ArithmeticError):
    """A gradient, a loss or the weights became infinite or NaN; the message says where, and what it may come from."""


def ends(losses: Tensor) -> tuple[float, float] | None:
    """Return the mean loss at the start and at the end of a phase; None where no two steps have a finite loss.

    Where training blew up within its start, that is the loss of the first step alone.

    Args:
        losses: of each step, in order; what is not finite is passed over.
    """
    known = losses[losses.isfinite()]
    if len(known) < 2:
        return None
    count = max(1, min(MOST, len(known) // 4))
    return float(min(known[0], known[:count].mean())), float(known[-count:].mean())


def growth(losses: Tensor) -> tuple[float, float] | None:
    """Return the mean loss at the start and at the end of a phase that ended above its start, and None of any other."""
    found = ends(losses)
    return found if found is not None and found[1] > found[0] + GROWN else None


def worsened(before: float, after: float) -> bool:
    """Return whether the loss of the same rows is higher after training on them than before, or no number any more."""
    return not after <= before + WORSE


def blew_up(losses: Tensor, blind: float) -> tuple[float, float] | None:
    """Return the first and the largest loss of a phase whose updates have wrecked the model on the way, and None of any other.

    Its loss is then far above both the first one and what guessing blindly costs, whatever it comes down to later: a model that
    gives the same answer to everything has a small loss as well.

    Args:
        blind: the loss of a model to which all tokens are alike: the logarithm of their number.
    """
    known = losses[losses.isfinite()]
    if not len(known):
        return None
    first, largest = float(known[0]), float(known.max())
    return (first, largest) if largest > max(2 * first, blind + GROWN) else None


def first_not_finite(weights: Weights, vector: Tensor) -> str | None:
    """Return the name of the first trained tensor whose part of a vector (weights,) is not finite; None if all are."""
    return next((name for name, part in weights.views(vector).items() if not part.isfinite().all()), None)


def describe(weights: Weights, losses: Tensor, gradient: bool) -> str:
    """Return where training stopped being finite, and what that points to.

    Args:
        losses: of the steps taken so far; with `gradient`, the next one is where it happened.
        gradient: whether the gradient is at fault, and not yet the weights; looked at as `weights.grad`.
    """
    faulty = weights.grad if gradient else weights.data
    name = first_not_finite(weights, faulty)
    bad = (~losses.isfinite()).nonzero().flatten()
    step = int(bad[0]) + 1 if len(bad) else len(losses) + gradient
    what = f"the {'gradient' if gradient else 'weights'} of '{name}'" if name else "the loss, or the gradient's length,"
    return f"{what} {'are' if name and not gradient else 'is'} not finite, first seen in step {step}; {_cause(weights, losses)}"


def _cause(weights: Weights, losses: Tensor) -> str:
    grew = growth(losses)
    if grew is not None:
        return f"before that the loss had grown from {grew[0]:.3g} to {grew[1]:.3g}: try a lower learning rate"
    numbers = weights.data[~weights.data.isnan()]
    largest = (
        float(numbers.abs().max()) if len(numbers) else 0.0
    )  # infinite where a step was too large to be written down
    if largest > HUGE:
        return f"before that a weight had grown to {largest:.3g}: try a lower learning rate"
    return "before that neither loss nor weights had grown: rather the arithmetic than the learning rate; try --precision float32"
