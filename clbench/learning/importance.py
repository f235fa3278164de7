"""Importance of weights: how it is smoothed over steps, and which weights are the most important ones.

Elementwise on flat vectors of shape (weights,), without waiting for the device and without a limit on their length.
"""

from collections.abc import Sequence
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
    """Return the linearly interpolated quantile along the last axis, which stays with length 1; of any length.

    Taken with `topk`: torch.quantile ends at 2**24 values, and on CUDA torch.kthvalue leaves a row to a single block.
    """
    count = values.shape[-1]
    position = part * (count - 1)
    below = int(position)
    highest = values.topk(count - below).values  # the last one has `below` values under it
    lower, upper = highest[..., -1:], highest[..., -2:][..., :1]
    return lower + (position - below) * (upper - lower)


def top_mask(scores: Tensor, top: float, strict: bool = False, groups: Sequence[Tensor] | None = None) -> Tensor:
    """Return which weights lie in the top part (0..1) of the scores (weights,), as booleans.

    Args:
        strict: a weight must lie above the threshold, not on it.
        groups: positions that make up all weights, each (parts, size), to give every part a threshold of its own.
    """
    if groups is None:
        return _above(scores, top, strict)
    mask = torch.empty_like(scores, dtype=torch.bool)
    for positions in groups:
        mask[positions] = _above(scores[positions], top, strict)
    return mask


def _above(scores: Tensor, top: float, strict: bool) -> Tensor:
    threshold = quantile(scores, 1 - top)
    return scores > threshold if strict else scores >= threshold


def min_max(scores: Tensor) -> Tensor:
    """Scale scores to 0..1; all zeros if they are all the same."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
