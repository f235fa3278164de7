"""Answer some questions both ways, freely and among the labels, and count where the answers differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from clbench.answering.asker import Asker, Way
from clbench.data.answer_scores import FULL, Metric
from clbench.data.tasks import Task
from clbench.seeds import derive_seed

WAYS: tuple[Way, ...] = ("generate", "labels")


def count_disagreement(
    asker: Asker, task: Task, rows: int, metric: Metric, ask: Callable[[Task], Sequence[str]]
) -> dict[str, int] | None:
    """Return of how many questions, `rows` at most and the same in every run, the answers differ; None without labels.

    Args:
        metric: the task's; two answers of which one scores 100 against the other do not differ.
        ask: answers a task's questions, in the end by the asker.
    """
    if not task.labels:
        return None
    chooser = random.Random(derive_seed("verify", task.name))
    chosen = sorted(chooser.sample(range(len(task.test)), min(rows, len(task.test))))
    part, found = replace(task, test=tuple(task.test[row] for row in chosen)), []
    for way in WAYS:
        with asker.asking(way):
            found.append(ask(part))
    differing = sum(metric(free, label) < FULL for free, label in zip(*found, strict=True))
    return {"rows": len(chosen), "differing": differing}
