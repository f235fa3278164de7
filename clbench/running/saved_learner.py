"""Save what a run has learned, and load it again: a learner of any method, which answers as its run did."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pluggy
from safetensors import SafetensorError

from clbench.atomic import read_file
from clbench.data.rows import parse_json, read_text
from clbench.data.tasks import Example, Task
from clbench.data.templates import TaskPrompt, prompt_of
from clbench.discovery import Plugins, find_plugins, run_manager
from clbench.errors import ClbenchError, one_line, unknown
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, load_backbone_of
from clbench.model.backbone_files import lasting_name
from clbench.records.record import Record, decode_record, encode_record
from clbench.running.checkpoints import read_checkpoint, restore_state, save_checkpoint, state_of
from clbench.running.plain_folder import answers_itself, beyond_weights, save_tokenizer, write_card
from clbench.running.protocol import DefaultProtocol, Run, ask_method
from clbench.settings import MOST_TOKENS, Settings, list_settings
from clbench.spec import RunSpec

LEARNER_FILE = "learner.json"
STATE_FILE = "method.safetensors"
RECORD_FILE = "record.json"


@dataclass(frozen=True, eq=False)
class SavedLearner:
    """What a run has learned, ready to answer.

    Attributes:
        spec: the run's spec, with the settings that were changed on loading.
        method: the method's instance, its state as it was at the run's end.
        learner: the backbone with what the method trained on it. Its own `answer` leaves the method's `evaluate` hook out.
        prompts: how each task of the run asks, by the task's name.
    """

    spec: RunSpec
    method: object
    learner: Learner
    prompts: Mapping[str, TaskPrompt]
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

    def probabilities(self, examples: Sequence[Example], labels: Sequence[str]) -> list[list[float]]:
        """Return for each example how likely each label is as its answer: of the labels, in their order, and 1 in all.

        These are the model's probabilities of whole labels. The answer, which is written token by token, can be another one.

        Raises:
            ClbenchError: the method answers by an `evaluate` hook of its own, of which there are no probabilities.
        """
        if answers_itself(self._hook):
            raise ClbenchError(
                f"method '{self.spec.method}' answers by an `evaluate` hook of its own: no probabilities"
            )
        return self.learner.asker.probabilities(examples, labels)

    @property
    def beyond_weights(self) -> str:
        """Why the answers are not those of a plain model with a PEFT adapter, in words; empty where they are."""
        return beyond_weights(self.learner, self._hook)


@dataclass(frozen=True)
class Saved:
    """What a saved folder says of its run."""

    spec: RunSpec
    identity: str
    prompts: tuple[TaskPrompt, ...]
    question: Example | None


class _Question(msgspec.Struct):
    head: str
    passage: str
    tail: str


class _Content(msgspec.Struct):
    """What stands in `learner.json`."""

    spec: dict[str, Any]
    identity: str
    prompts: Annotated[tuple[TaskPrompt, ...], msgspec.Meta(min_length=1)]
    question: _Question | None


def save_learner(run: Run, record: Record, folder: Path) -> None:
    """Write what is trained, the method's state, what `load_learner` needs to make their learner again, and what others need.

    Others read the adapter in PEFT's format, the tokenizer and the model card.

    Raises:
        ClbenchError: the method's state holds something that cannot be stored.
    """
    opened, learner = run.opened, run.learner
    prompts = [prompt_of(opened.stream.spec(task.name)) for task in opened.tasks]
    question = None if opened.stream.file else opened.tasks[0].test[0]  # no row of a user's own data goes into a card
    try:
        learner.attached.save(folder)
        save_checkpoint(folder / STATE_FILE, state_of(opened.instance), opened.identity)
    except TypeError as error:
        raise ClbenchError(f"method '{opened.method.name}': {error}") from error
    except SafetensorError as error:  # how safetensors says that a disk is full
        raise OSError(errno.EIO, one_line(error)) from error
    save_tokenizer(learner.backbone, learner.settings, folder)
    write_card(folder, "adapter", record, learner, prompts, question, beyond_weights(learner, run.hook))
    (folder / RECORD_FILE).write_bytes(encode_record(record))
    found = replace(opened.settings, backbone=lasting_name(opened.settings.backbone))
    made = {
        "spec": replace(opened.spec, settings=found).as_dict(),
        "identity": opened.identity,
        "prompts": [asdict(prompt) for prompt in prompts],
        "question": None if question is None else {name: vars(question)[name] for name in ("head", "passage", "tail")},
    }
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
    learner = Learner(backbone, settings, manager.hook, len(saved.prompts))
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
    learner.task_index = len(saved.prompts) - 1
    prompts = {prompt.task: prompt for prompt in saved.prompts}
    return SavedLearner(RunSpec(method.name, saved.spec.options, settings), instance, learner, prompts, manager.hook)


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
        found = msgspec.convert(content, _Content)
        if any(not 1 <= (prompt.max_answer or 1) <= MOST_TOKENS for prompt in found.prompts):
            raise ValueError("an answer of no tokens, or of more than there can be")
        asked = found.question
        question = None if asked is None else Example(asked.head, asked.passage, "", asked.tail)
        return Saved(RunSpec.from_dict(found.spec), found.identity, found.prompts, question)
    except ClbenchError as error:
        raise ClbenchError(f"{file}: {error}") from None
    except (TypeError, ValueError, msgspec.ValidationError) as error:
        raise ClbenchError(f"{file}: says nothing of a saved run, or one of an earlier clbench ({error!r})") from None


def find_learner(name: str, results: Path) -> Path:
    """Return the folder of a saved learner given by its path, or by its run's name in the results folder.

    Raises:
        ClbenchError: there is none.
    """
    of_run = results / f"{name.removesuffix('.json').removesuffix('.adapter')}.adapter"
    for folder in (Path(name), of_run):
        if folder.is_dir():
            return folder
    raise ClbenchError(
        f"no saved learner '{name}': there is neither such a folder nor '{of_run}'; `clbench run --save-adapter` keeps one"
    )


def read_record_of(folder: Path) -> Record:
    """Return the record of the run that a folder holds the learner of.

    Raises:
        ClbenchError: it is not there, or is none.
    """
    try:
        return decode_record(read_file(folder / RECORD_FILE), str(folder / RECORD_FILE))
    except OSError as error:
        raise ClbenchError(f"{folder / RECORD_FILE}: cannot be read: {error.strerror}") from None
