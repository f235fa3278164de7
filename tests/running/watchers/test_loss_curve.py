"""The loss of each task goes into the record, at no more than 200 points, evenly spread over all phases."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clbench.running.watchers.loss_curve import POINTS, LossCurve


@dataclass
class FakeRun:
    """What the watcher asks of a run."""

    progress: Any = field(default_factory=lambda: SimpleNamespace(losses=[]))


def curve_of(phases: list[int]) -> dict[str, Any]:
    """Return what is kept of a task with phases of so many steps, whose loss is the step's number."""
    watcher, run, number = LossCurve(), FakeRun(), 0
    stream = LossCurve.run_stream(watcher, run)  # type: ignore[arg-type]
    next(stream)
    task = LossCurve.learn_task(watcher, None, None)  # type: ignore[arg-type]
    next(task)
    for steps in phases:
        for step in range(1, steps + 1):
            number += 1
            watcher.train_step(None, step, steps, torch.tensor(float(number)))  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        task.send({})
    (kept,) = run.progress.losses
    return kept


@pytest.mark.parametrize("phases", [[1], [7], [200], [201], [5000], [3, 5000], [40, 40, 40, 400], [150, 150]])
def test_few_points_evenly_spread(phases: list[int]) -> None:
    kept, count = curve_of(phases), sum(phases)
    steps = kept["steps"]
    assert kept["of"] == count
    assert kept["losses"] == pytest.approx(steps)
    assert len(steps) <= POINTS
    assert len(steps) >= min(count, POINTS // 2)
    assert len({b - a for a, b in zip([0, *steps], steps, strict=False)}) == 1


def test_a_task_without_steps_has_no_points() -> None:
    assert curve_of([]) == {"steps": [], "losses": [], "of": 0}
