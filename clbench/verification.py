"""Answer some questions both ways, freely and among the labels, and count where the answers differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from .seeding import derive_seed

if TYPE_CHECKING:
    from .learner import Learner
    from .streams import Task

WAYS: tuple[Literal["generate", "labels"], ...] = ("generate", "labels")


def count_disagreement(
    learner: Learner, task: Task, rows: int, ask: Callable[[Task], Sequence[str]]
) -> dict[str, int] | None:
    """Return of how many questions, `rows` at most and the same in every run, the answers differ; None without labels.

    Args:
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
    return {"rows": len(chosen), "differing": sum(free != label for free, label in zip(*found, strict=True))}


def disagreement_text(record: Mapping[str, Any]) -> str:
    """Return how often both ways differed in a run, over all and task by task, in one line; empty if it was not asked."""
    cells = record.get("verified_answers") or []
    if not cells:
        return ""
    of_task: dict[str, list[int]] = {}
    for cell in cells:
        differing, rows = of_task.setdefault(cell["task"], [0, 0])
        of_task[cell["task"]] = [differing + cell["differing"], rows + cell["rows"]]
    differing, rows = (sum(counts) for counts in zip(*of_task.values(), strict=True))
    parts = ", ".join(f"{name} {differing}/{rows}" for name, (differing, rows) in of_task.items())
    return f"generate and labels differ in {differing} of {rows} answers ({100 * differing / rows:.1f}%): {parts}"
