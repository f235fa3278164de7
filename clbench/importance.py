"""Importance of weights: how it is smoothed over steps, and which weights are the most important ones.

Elementwise on flat vectors of shape (weights,), without waiting for the device and without a limit on their length.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Importance:
    """Exponential moving average of a raw importance, from zero and without bias correction (TaSL eq. 4, R-KIF eq. 4).

    With `spread` the average deviation from the mean is followed as well and multiplies the score (AdaLoRA's uncertainty).
    """

    smoothing: float
    spread: bool = False
    _mean: Tensor | None = None
    _deviation: Tensor | None = None

    def update(self, raw: Tensor) -> None:
        """Take in the raw importance of one step."""
        if self._mean is None:
            self._mean = torch.zeros_like(raw)
            self._deviation = torch.zeros_like(raw) if self.spread else None
        self._mean.lerp_(raw, 1 - self.smoothing)
        if self._deviation is not None:
            self._deviation.lerp_((raw - self._mean).abs_(), 1 - self.smoothing)

    @property
    def score(self) -> Tensor:
        """The smoothed importance of each weight.

        Raises:
            ValueError: nothing was taken in yet.
        """
        if self._mean is None:
            raise ValueError("no importance was observed")
        return self._mean if self._deviation is None else self._mean * self._deviation

    def restart(self) -> None:
        """Forget everything."""
        self._mean = self._deviation = None


def quantile(values: Tensor, part: float) -> Tensor:
    """Return the linearly interpolated quantile of a vector, a scalar; unlike torch.quantile of any length."""
    position = part * (values.numel() - 1)
    below = int(position)
    lower = values.kthvalue(below + 1).values
    upper = values.kthvalue(min(below + 2, values.numel())).values
    return lower + (position - below) * (upper - lower)


def top_mask(scores: Tensor, top: float, strict: bool = False, parts: Iterable[Tensor] | None = None) -> Tensor:
    """Return which weights lie in the top part (0..1) of the scores, as booleans of the scores' shape.

    Args:
        strict: a weight must lie above the threshold, not on it.
        parts: views that together make up `scores`, to give each its own threshold.
    """
    if parts is not None:
        return torch.cat([top_mask(part.flatten(), top, strict) for part in parts])
    threshold = quantile(scores, 1 - top)
    return scores > threshold if strict else scores >= threshold


def min_max(scores: Tensor) -> Tensor:
    """Scale scores to 0..1; all zeros if they are all the same."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
