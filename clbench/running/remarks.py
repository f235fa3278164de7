"""What a reader of a run's scores must know, beyond its scores: said in its record, marked in the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clbench.data.answer_scores import Metric, lost_answers, lost_text
from clbench.data.tasks import Task
from clbench.discovery import Method
from clbench.learning.divergence import blew_up, worsened
from clbench.learning.stopwatch import Cost
from clbench.records.record import Mark


@dataclass(frozen=True)
class Remark:
    """One thing to know: a mark in a word, and a sentence."""

    mark: Mark
    note: str


def on_losses(task: Task, phases: Sequence[Tensor], before: float, after: float, tokens: int) -> list[Remark]:
    """Remark that learning a task made it worse at the task, or wrecked the model on the way.

    Args:
        phases: the losses of each step of each phase.
        before: the mean loss of some of the task's training rows when its training began.
        after: that of the same rows when it had ended.
        tokens: that the model chooses among.
    """
    wrecked = [rise for losses in phases if (rise := blew_up(losses, math.log(tokens))) is not None]
    if worsened(before, after):
        how = f"the loss rose from {before:.3g} to {after:.3g}"
    elif wrecked:
        how = f"the loss rose from {wrecked[0][0]:.3g} to {wrecked[0][1]:.3g} on the way, and ended at {after:.3g}"
    else:
        return []
    return [Remark("diverged", f"diverged on task '{task.name}': {how}")]


def on_replay(
    method: Method, options: Mapping[str, Any], earlier: Sequence[Task], task: Task, cost: Cost
) -> list[Remark]:
    """Remark that a task was learned on no old row, though the method keeps some, as where it has fewer steps than rkif's window.

    Args:
        earlier: the tasks that were learned before; of one whose rows are all the task's own, too, none counts as old.
        cost: what learning the task took.
    """
    own = set(task.train)
    kept = [one.name for one in earlier if method.remembers(options, len(one.train)) and not own.issuperset(one.train)]
    if not kept or cost.replayed_rows or cost.other_rows:
        return []
    note = f"task '{task.name}' was learned on no row of {', '.join(kept)}, of which some are kept; take more rows, or epochs"
    return [Remark("nothing replayed", note)]


def on_answers(tasks: Sequence[Task], last: Mapping[str, Sequence[str]]) -> list[Remark]:
    """Remark that nothing was answered to whole tasks after the last one; `last` are the answers by the task's number."""
    silent = [tasks[int(number)].name for number, answers in last.items() if not any(map(str.strip, answers))]
    if not silent:
        return []
    return [Remark("empty answers", f"after the last task every answer is empty to: {', '.join(silent)}")]


def on_backbone(changed: Sequence[str]) -> list[Remark]:
    """Remark that a method changed the frozen backbone; `changed` are the names of tensors."""
    if not changed:
        return []
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    note = f"the method changed the frozen backbone ({names}); a resumed run would not have these changes"
    return [Remark("backbone changed", note)]


def on_processes(count: int) -> str:
    """Say how far the numbers of a run that several processes shared are those of one; no mark, since they are as good."""
    return (
        f"{count} processes shared each batch: the numbers are those of one process within rounding, but for the random numbers "
        f"of dropout and sampling, which are others"
    )


def on_targets(task: Task, metric: Metric, written: Callable[[Sequence[str]], Sequence[str]]) -> list[Remark]:
    """Remark that test answers of free text cannot be written by the tokenizer, so that none can be quite right."""
    answers = [] if task.labels else [example.target for example in task.test]
    lost = lost_answers(metric, answers, written(answers)) if answers else []
    if not lost:
        return []
    count = sum(answer in dict(lost) for answer in answers)
    note = f"task '{task.name}': {count} of {len(answers)} test answers cannot be written: {lost_text(lost)}"
    return [Remark("unwritable answers", note)]


def on_prompts(task: Task, unread: Callable[[Sequence[str]], Sequence[str]]) -> list[Remark]:
    """Remark that the tokenizer does not know the letters of a task's questions, which say nothing to the model then."""
    passages = [example.passage for example in (*task.train, *task.test)]
    lost = unread(passages)
    if not lost:
        return []
    note = (
        f"task '{task.name}': {len(lost)} of {len(passages)} questions cannot be read, the tokenizer not knowing their letters, "
        f"as of {lost[0][:20]!r}; take another backbone"
    )
    return [Remark("unreadable prompts", note)]


def on_memory(method: Method, options: Mapping[str, Any], tasks: Sequence[Task]) -> list[Remark]:
    """Remark that a method's memory keeps nothing of earlier tasks, since they have so few rows: it replays nothing then."""
    memory, earlier = method.about.memory, tasks[:-1]
    empty = [task for task in earlier if method.remembers_nothing(options, len(task.train))]
    if memory is None or not empty:
        return []
    rows = len(empty[0].train)
    note = (
        f"{memory.option}={options[memory.option]} of {rows} training rows is less than one: nothing is remembered of "
        f"{len(empty)} of {len(earlier)} earlier tasks; take more rows, or a larger {memory.option}"
    )
    return [Remark("empty memory", note)]
