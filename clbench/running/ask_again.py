"""Ask a run's lost questions again among the labels: whether what was learned is still there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clbench.data.answer_scores import FULL
from clbench.discovery import Plugins
from clbench.errors import ClbenchError
from clbench.records.record import Record
from clbench.running.opening import RunOpener
from clbench.running.saved_learner import SavedLearner


def right_among_labels(
    saved: SavedLearner, record: Record, rows: dict[str, list[int]], plugins: Plugins
) -> dict[str, list[bool]]:
    """Return for rows of each task's questions, by number, whether the learner is right where a label must be the answer.

    Raises:
        ClbenchError: the data are not there, or not those of the run.
    """
    opened = RunOpener(plugins, Path()).open(saved.spec)
    if opened.digests.questions != record.digests.questions:
        raise ClbenchError(f"the data '{saved.spec.settings.data}' have other questions than those of '{record.name}'")
    found = {}
    for task in opened.tasks:
        part = replace(task, test=tuple(task.test[row] for row in rows.get(task.name, ())))
        with saved.learner.asker.asking("labels"):
            answers = saved.evaluate(part) if part.test else []
        metric = plugins.metrics[task.metric]
        found[task.name] = [
            any(metric(answer, right) >= FULL for right in example.accepted)
            for answer, example in zip(answers, part.test, strict=True)
        ]
    return found
