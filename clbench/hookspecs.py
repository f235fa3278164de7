"""The hooks: everything that a plugin can offer or take part in, on one page.

A method offers itself by name through `methods` and implements `learn_task`; the harness registers the one instance that was
asked for, so that its state lives in the instance. A watcher (progress bar, tracker, timer) wraps the same verbs with
`@hookimpl(wrapper=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from clbench.data.tasks import Task
    from clbench.learning.learner import Learner
    from clbench.records.record import Record
    from clbench.running.protocol import Run

PROJECT = "clbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Mark a function as the implementation of the hook of its name; `@hookimpl(wrapper=True)`: as one around it (see pluggy)."""


@hookspec
def methods() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Offer methods by name. The keyword parameters of each callable are the method's options."""


@hookspec
def metrics() -> Mapping[str, Callable[[str, str], float]]:  # type: ignore[empty-body]
    """Offer metrics by name: from an answer and one right answer to a score in percent."""


@hookspec(firstresult=True)
def run_stream(run: Run) -> bool:  # type: ignore[empty-body]
    """Learn the stream's tasks and fill `run.scores`; return True. The core's default learns one task after another."""


@hookspec(firstresult=True)
def attach(learner: Learner) -> bool:  # type: ignore[empty-body]
    """Put what is to be trained on the frozen model, before the first task and after the method's state was restored.

    Return True. The core's default is one LoRA adapter. Called once in a process; the trainable weights' values follow.
    """


@hookspec(firstresult=True)
def learn_task(learner: Learner, task: Task) -> Mapping[str, float]:  # type: ignore[empty-body]
    """Learn one task; return what is worth recording, never None. The method alone implements it."""


@hookspec(firstresult=True)
def evaluate(learner: Learner, task: Task) -> Sequence[str]:  # type: ignore[empty-body]
    """Answer the task's test questions, one string each, in their order. The harness scores them.

    Whoever passes the task's labels to `learner.answer` answers as the setting `answers` says.
    """


@hookspec
def train_step(learner: Learner, step: int, steps: int, loss: Tensor) -> None:
    """Take note: optimizer step `step` of `steps` (from 1) was taken; `loss` is a detached scalar on the device."""


@hookspec
def run_ended(run: Run, record: Record | None) -> None:
    """Take note: the run is over. Its record and answers are written; `record` is none where it failed or was stopped."""
