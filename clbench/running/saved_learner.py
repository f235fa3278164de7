"""Save what a run has learned, and load it again: a learner of any method, which answers as its run did."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pluggy
from safetensors import SafetensorError

from clbench.data.rows import parse_json, read_text
from clbench.data.tasks import Example, Task
from clbench.discovery import Plugins, find_plugins, run_manager
from clbench.errors import ClbenchError, one_line, unknown
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, load_backbone_of
from clbench.running.checkpoints import read_checkpoint, restore_state, save_checkpoint, state_of
from clbench.running.opening import OpenedRun
from clbench.running.protocol import DefaultProtocol, ask_method
from clbench.settings import Settings, list_settings
from clbench.spec import RunSpec

LEARNER_FILE = "learner.json"
STATE_FILE = "method.safetensors"
MOST_TASKS = 100_000  # of a stream, so that a damaged number is none


@dataclass(frozen=True, eq=False)
class SavedLearner:
    """What a run has learned, ready to answer.

    Attributes:
        spec: the run's spec, with the settings that were changed on loading.
        method: the method's instance, its state as it was at the run's end.
        learner: the backbone with what the method trained on it. Its own `answer` leaves the method's `evaluate` hook out.
    """

    spec: RunSpec
    method: object
    learner: Learner
    _hook: pluggy.HookRelay

    def answer(self, examples: Sequence[Example], labels: Sequence[str] = (), task: str = "questions") -> list[str]:
        """Return the method's answers, one text an example, in their order.

        Args:
            labels: the closed set of right answers, none for free text; looked at under the setting `answers=labels`.
            task: the name of the task that the questions are of, for a method that must be told (`About.needs_task_id`).

        Raises:
            ClbenchError: the method fails.
        """
        return self.evaluate(Task(task, (), tuple(examples), labels=tuple(labels)))

    def evaluate(self, task: Task) -> list[str]:
        """Return the method's answers to a task's test questions: after the last task of its run, those in the record.

        Raises:
            ClbenchError: the method fails.
        """
        return ask_method(self.spec.method, self._hook, self.learner, task)


@dataclass(frozen=True)
class Saved:
    """What a saved folder says of its run."""

    spec: RunSpec
    stream_length: int
    identity: str


def save_learner(opened: OpenedRun, learner: Learner, folder: Path) -> None:
    """Write what is trained, the method's state, and what `load_learner` needs to make their learner again.

    Raises:
        ClbenchError: the method's state holds something that cannot be stored.
    """
    try:
        learner.attached.save(folder)
        save_checkpoint(folder / STATE_FILE, state_of(opened.instance), opened.identity)
    except TypeError as error:
        raise ClbenchError(f"method '{opened.method.name}': {error}") from error
    except SafetensorError as error:  # how safetensors says that a disk is full
        raise OSError(errno.EIO, one_line(error)) from error
    made = {"spec": opened.spec.as_dict(), "stream_length": learner.stream_length, "identity": opened.identity}
    (folder / LEARNER_FILE).write_text(json.dumps(made, indent=1) + "\n", "utf-8")


def load_learner(
    folder: str | Path,
    plugins: Iterable[str | Path] = (),
    trust_remote_code: bool = False,
    backbone: str | None = None,
    **changes: Any,
) -> SavedLearner:
    """Load what `--save-adapter` kept of a run; `answer(examples)` asks it as the run's method answered.

    Nothing in the folder is executed. Code is that of clbench, of installed packages, of `plugins`, and of the backbone only
    where `trust_remote_code` says so here, whatever the run was told.

    Args:
        folder: `results/NAME.adapter`.
        plugins: the plugin files that offer the method, unless clbench or an installed package does.
        trust_remote_code: run Python code that comes with the backbone; read it first.
        backbone: a hub id or a folder, where it is not the one that the run named.
        changes: settings that differ here, such as `device="cpu"`.

    Raises:
        ClbenchError: the folder holds no saved run; its method, backbone or settings are not available here; or its tensors are
            not those of the method on this backbone (missing, unknown, of another shape, not finite; the message names them).
    """
    saved = read_saved(Path(folder))
    for name in changes:
        if name not in list_settings():
            raise unknown("setting", name, list_settings())
    values = {**asdict(saved.spec.settings), **changes, "trust_remote_code": trust_remote_code}
    settings = Settings(**{**values, "backbone": backbone or saved.spec.settings.backbone})
    found = find_plugins(plugins)
    found.method(saved.spec.method)  # quick to refuse
    return restore_learner(Path(folder), saved, found, load_backbone_of(settings), settings)


def restore_learner(
    folder: Path, saved: Saved, plugins: Plugins, backbone: Backbone, settings: Settings
) -> SavedLearner:
    """Put what a folder holds on a loaded backbone.

    Raises:
        ClbenchError: as `load_learner`; nothing stays on the backbone.
    """
    method = plugins.method(saved.spec.method)
    instance = method.build(saved.spec.options)
    manager = run_manager(plugins, instance, method.name, [DefaultProtocol()])
    learner = Learner(backbone, settings, manager.hook, saved.stream_length)
    try:
        restore_state(instance, read_checkpoint(folder / STATE_FILE, learner.device, saved.identity))
        manager.hook.attach(learner=learner)
        learner.attached.load(folder)
    except Exception as error:  # a method's `attach` may raise anything
        learner.attached.detach()
        if isinstance(error, ClbenchError):
            raise
        said = " ".join(str(error).split()) if isinstance(error, ValueError) else one_line(error)
        raise ClbenchError(
            f"'{folder}' does not fit method '{method.name}' on backbone '{backbone.name}': {said}"
        ) from error
    learner.task_index = saved.stream_length - 1
    return SavedLearner(RunSpec(method.name, saved.spec.options, settings), instance, learner, manager.hook)


def read_saved(folder: Path) -> Saved:
    """Return what a folder says of its run.

    Raises:
        ClbenchError: it holds no saved run, or one of another version of clbench.
    """
    file = folder / LEARNER_FILE
    try:
        content = parse_json(read_text(file))
    except FileNotFoundError:
        raise ClbenchError(f"'{folder}' holds no saved run: it has no {LEARNER_FILE}") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{file}: cannot be read as JSON: {error}") from None
    try:
        length, identity = content["stream_length"], content["identity"]
        if type(length) is not int or not 1 <= length <= MOST_TASKS or type(identity) is not str:
            raise TypeError(f"stream_length {length!r}, identity {identity!r}"[:200])
        return Saved(RunSpec.from_dict(content["spec"]), length, identity)
    except ClbenchError as error:
        raise ClbenchError(f"{file}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ClbenchError(f"{file}: says nothing of a saved run, or one of an earlier clbench ({error!r})") from None
