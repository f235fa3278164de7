"""The loss of each task goes into the record, at no more than 200 points, evenly spread over all phases."""

import math

import pytest
import torch

from clbench.running.loss_curve import POINTS, loss_curve


@pytest.mark.parametrize("phases", [[1], [7], [200], [201], [5000], [3, 5000], [40, 40, 40, 400], [150, 150]])
def test_few_points_evenly_spread(phases: list[int]) -> None:
    numbers = torch.arange(1, sum(phases) + 1, dtype=torch.float32)  # the loss of a step is the step's number
    kept = loss_curve(numbers.split(phases))
    steps = kept["steps"]
    assert kept["of"] == sum(phases)
    assert kept["losses"] == pytest.approx(steps)
    assert min(sum(phases), POINTS // 2) <= len(steps) <= POINTS
    assert len({b - a for a, b in zip([0, *steps], steps, strict=False)}) == 1


def test_steps_that_were_not_taken_have_no_points() -> None:
    assert loss_curve([]) == {"steps": [], "losses": [], "of": 0}
    assert loss_curve([torch.tensor([2.0, 1.0, math.nan])]) == {"steps": [1, 2], "losses": [2.0, 1.0], "of": 2}
