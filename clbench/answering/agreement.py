"""Answer some questions both ways, freely and among the labels, and count where the answers differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from clbench.data.answer_scores import Metric
from clbench.data.sources import FULL
from clbench.seeds import derive_seed

if TYPE_CHECKING:
    from clbench.data.tasks import Task
    from clbench.learning.learner import Learner

WAYS: tuple[Literal["generate", "labels"], ...] = ("generate", "labels")


def count_disagreement(
    learner: Learner, task: Task, rows: int, metric: Metric, ask: Callable[[Task], Sequence[str]]
) -> dict[str, int] | None:
    """Return of how many questions, `rows` at most and the same in every run, the answers differ; None without labels.

    Args:
        metric: the task's; two answers of which one scores 100 against the other do not differ.
        ask: answers a task's questions as the learner's setting `answers` says.
    """
    if not task.labels:
        return None
    chooser = random.Random(derive_seed("verify", task.name))
    chosen = sorted(chooser.sample(range(len(task.test)), min(rows, len(task.test))))
    part, settings, found = replace(task, test=tuple(task.test[row] for row in chosen)), learner.settings, []
    try:
        for way in WAYS:
            learner.settings = replace(settings, answers=way)
            found.append(ask(part))
    finally:
        learner.settings = settings
    differing = sum(metric(free, label) < FULL for free, label in zip(*found, strict=True))
    return {"rows": len(chosen), "differing": differing}
