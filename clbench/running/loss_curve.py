"""The loss over the steps of a task, at a few points, for the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

POINTS = 200  # at most, of a task


def loss_curve(phases: Sequence[Tensor]) -> dict[str, Any]:
    """Return the loss of every n-th optimizer step of a task, n so that `POINTS` are enough; waits for the device.

    Args:
        phases: of each phase of training the loss of each of its steps, NaN where it was not taken.
    """
    losses = torch.cat([phase.detach().float().cpu() for phase in phases]) if phases else torch.empty(0)
    taken = losses[~losses.isnan()].tolist()
    every = max(1, -(-len(taken) // POINTS))
    steps = range(every, len(taken) + 1, every)
    return {"steps": list(steps), "losses": [float(f"{taken[step - 1]:.6g}") for step in steps], "of": len(taken)}
