"""The protocol: learn one task after another, evaluate the cells asked for, keep the record, resume after a kill."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pluggy
import torch

from . import metrics
from .answering import label_trie
from .backbone import Backbone, adapted_modules
from .checkpoint import load_checkpoint, restore_state, save_checkpoint, state_of
from .cost import CostMeter
from .discovery import Method, Plugins, run_manager
from .errors import ClbenchError, one_line
from .hookspecs import hookimpl
from .learner import Learner
from .metrics import METRICS, Metric, cells_to_evaluate, score_answers
from .settings import Settings
from .sources import check_labels_round_trip, fingerprint, fingerprint_questions
from .store import SCHEMA_VERSION, RunFiles, write_atomically
from .streams import Example, Stream, Task
from .verification import count_disagreement

LEARNER_FILE = "learner.json"  # in the folder of a saved run


@dataclass(eq=False)
class Progress:
    """What a run has reached; checkpointed after each task.

    `scores[i][j]` is the score on task j after learning task i, percent, None where not evaluated; `answers[i][j]` are the
    answers behind it, by the task numbers as text; `verified` counts where free answers and labels differ; `logs` is what
    watchers keep, by their names.
    """

    scores: list[list[float | None]]
    done: int = 0
    answers: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    learned: list[dict[str, float]] = field(default_factory=list)
    costs: list[dict[str, float | None]] = field(default_factory=list)
    learn_seconds: list[float] = field(default_factory=list)
    evaluate_seconds: list[list[float]] = field(default_factory=list)
    verified: list[dict[str, Any]] = field(default_factory=list)
    started: str = ""
    logs: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """One run as a `run_stream` hook sees it: tasks to learn, cells to fill."""

    settings: Settings
    tasks: Sequence[Task]
    learner: Learner
    hook: pluggy.HookRelay
    method: object
    method_name: str
    files: RunFiles
    progress: Progress
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)

    def learn(self, task: Task, index: int) -> None:
        """Let the method learn a task as the stream's task `index`; keep its time and what it reports.

        Raises:
            ClbenchError: the method fails, reports nothing, or leaves weights that are not finite.
        """
        self.learner.begin_task(index, task)
        begin = time.perf_counter()
        try:
            report = self.hook.learn_task(learner=self.learner, task=task)
            if report is None:
                raise TypeError("learn_task returned None; return a mapping of numbers, {} for nothing to report")
            learned = {str(name): float(value) for name, value in report.items()}
        except ClbenchError:
            raise
        except Exception as error:  # a method may raise anything
            raise ClbenchError(
                f"method '{self.method_name}' failed on task '{task.name}': {one_line(error)}"
            ) from error
        if not torch.isfinite(self.learner.weights.data).all():
            raise ClbenchError(
                f"method '{self.method_name}' diverged on task '{task.name}': weights are not finite; try a lower learning rate"
            )
        seconds = time.perf_counter() - begin - self.learner.cost.aside_seconds
        self.progress.learn_seconds.append(round(seconds, 3))
        self.progress.learned.append(learned)

    def evaluate(self, index: int, which: Sequence[int]) -> None:
        """Ask the questions of the tasks `which` and fill row `index` of the scores.

        Raises:
            ClbenchError: the method fails or does not give one answer a question.
        """
        seconds = []
        for j in which:
            task = self.tasks[j]
            begin = time.perf_counter()
            answers = self.ask(task)
            accepted = [example.accepted for example in task.test]
            self.progress.scores[index][j] = score_answers(task.metric, answers, accepted, self.metrics)
            self.progress.answers.setdefault(str(index), {})[str(j)] = answers
            seconds.append(round(time.perf_counter() - begin, 3))
        self.progress.evaluate_seconds.append(seconds)
        for j in which if self.settings.verify_answers else ():
            task = self.tasks[j]
            counts = count_disagreement(self.learner, task, self.settings.verify_answers, self.ask)
            if counts is not None:
                self.progress.verified.append({"after": index, "task": task.name, **counts})

    def ask(self, task: Task) -> list[str]:
        """Return the method's answers to a task's test questions.

        Raises:
            ClbenchError: the method fails or does not give one answer a question.
        """
        try:
            answers = [str(answer) for answer in self.hook.evaluate(learner=self.learner, task=task)]
        except ClbenchError:
            raise
        except Exception as error:  # a method may raise anything
            raise ClbenchError(
                f"method '{self.method_name}' failed to answer task '{task.name}': {one_line(error)}"
            ) from error
        if len(answers) != len(task.test):
            raise ClbenchError(
                f"method '{self.method_name}' gave {len(answers)} answers to the {len(task.test)} questions "
                f"of task '{task.name}'"
            )
        return answers

    def finish_task(self, index: int) -> None:
        """Write the checkpoint from which the same command goes on with the next task.

        Raises:
            ClbenchError: the method's state holds something that cannot be stored.
        """
        self.progress.done = index + 1
        content = {
            "progress": asdict(self.progress),
            "weights": self.learner.weights.data,
            "method": state_of(self.method),
        }
        try:
            save_checkpoint(self.files.checkpoint, content)
        except TypeError as error:
            raise ClbenchError(f"method '{self.method_name}': {error}") from error

    def begin(self) -> None:
        """Take up the checkpoint, if there is one, and put the trainable weights on the model."""
        if not self.files.checkpoint.exists():
            self.hook.attach(learner=self.learner)
            return
        content = load_checkpoint(self.files.checkpoint, self.learner.device)
        self.progress = Progress(**content["progress"])
        restore_state(self.method, content["method"])
        self.hook.attach(learner=self.learner)
        self.learner.weights.assign(content["weights"])


class DefaultProtocol:
    """The core's own implementations of the hooks; a method's come first."""

    @hookimpl(trylast=True)
    def run_stream(self, run: Run) -> bool:
        """Learn the tasks in order; after each, evaluate the cells that the run's `matrix` setting asks for."""
        for index in range(run.progress.done, len(run.tasks)):
            run.learn(run.tasks[index], index)
            run.evaluate(index, cells_to_evaluate(run.settings.matrix, index, len(run.tasks)))
            run.finish_task(index)
        return True

    @hookimpl(trylast=True)
    def attach(self, learner: Learner) -> bool:
        """Attach one LoRA adapter."""
        learner.add_lora()
        return True

    @hookimpl(trylast=True)
    def evaluate(self, learner: Learner, task: Task) -> list[str]:
        """Answer with the learner as it is."""
        return learner.answer(task.test, labels=task.labels)


def run_files(
    folder: Path, settings: Settings, method: Method, options: Mapping[str, Any], tasks: Sequence[Task]
) -> RunFiles:
    """Return the files of a run; they differ whenever settings, options, data or the method's source do."""
    identity = {
        "settings": asdict(settings),
        "method": method.name,
        "options": dict(options),
        "source": method.source_digest,
        "data": fingerprint(tasks),
    }
    return RunFiles.of(folder, identity)


def execute_run(
    settings: Settings,
    stream: Stream,
    tasks: Sequence[Task],
    backbone: Backbone,
    plugins: Plugins,
    method: Method,
    options: Mapping[str, Any],
    files: RunFiles,
    watchers: Sequence[object] = (),
    save_adapter: bool = False,
    audit: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run one method on one stream, from its checkpoint if there is one; write and return the record.

    Args:
        audit: the verdict on the data (`clbench.audit`), to be kept in the record.

    Raises:
        ClbenchError: the method or a setting fails; the checkpoint of the last finished task stays.
    """
    for task in tasks:
        check_labels_round_trip(task.labels, plugins.metrics[task.metric])
    instance = method.build(options)
    manager = run_manager(plugins, instance, method.name, [DefaultProtocol(), CostMeter(instance), *watchers])
    learner = Learner(backbone, settings, manager.hook, len(tasks))
    choosing = settings.answers == "labels" or settings.verify_answers > 0
    for task in (task for task in tasks if choosing and task.labels):
        label_trie(learner, task.labels)  # labels that cannot be told apart are refused before anything is learned
    empty = Progress([[None] * len(tasks) for _ in tasks], started=datetime.now(UTC).isoformat(timespec="seconds"))
    run = Run(settings, tasks, learner, manager.hook, instance, method.name, files, empty, plugins.metrics)
    try:
        with files.lock():
            run.begin()
            manager.hook.run_stream(run=run)
            if save_adapter:
                write_atomically(files.adapter, partial(_save_learner, learner, method, options))
            record = make_record(run, stream, method, options) | {"plugins": list(plugins.modules), "audit": audit}
            files.write_record(record, _answer_rows(run))
            files.checkpoint.unlink(missing_ok=True)
    finally:
        learner.detach()
    return record


def _save_learner(learner: Learner, method: Method, options: Mapping[str, Any], folder: Path) -> None:
    """Write the weights, and beside them what `clbench.loading.load_learner` needs to make their learner again."""
    learner.save(folder)
    made = {"method": method.name, "options": dict(options), "settings": asdict(learner.settings)}
    text = json.dumps({**made, "stream_length": learner.stream_length}, indent=1) + "\n"
    (folder / LEARNER_FILE).write_text(text, "utf-8")


def make_record(run: Run, stream: Stream, method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finished run's record."""
    progress, settings = run.progress, run.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "name": run.files.name,
        "method": method.name,
        "options": dict(options),
        "changed_options": {name: value for name, value in options.items() if value != method.options[name].default},
        "plugin": {"origin": method.origin, "source_digest": method.source_digest},
        "settings": asdict(settings),
        "stream": {"name": stream.name, "family": stream.family, "order": stream.order},
        "tasks": [
            {
                "name": task.name,
                "version": stream.spec(task.name).version,
                "metric": task.metric,
                "train": len(task.train),
                "test": len(task.test),
                "validation": len(task.validation),
            }
            for task in run.tasks
        ],
        "data_fingerprint": fingerprint(run.tasks),
        "test_fingerprint": fingerprint_questions(run.tasks),
        "scores": progress.scores,
        "metrics": {
            "op": metrics.overall_performance(progress.scores),
            "bwt": metrics.backward_transfer(progress.scores),
            "forgetting": metrics.forgetting(progress.scores),
        },
        "learned": progress.learned,
        "costs": progress.costs,
        "verified_answers": progress.verified,
        "timings": {"learn_seconds": progress.learn_seconds, "evaluate_seconds": progress.evaluate_seconds},
        "lora_targets": adapted_modules(run.learner.adapter, settings),
        "trainable_weights": len(run.learner.weights),
        "peak_memory_bytes": _peak_memory(run.learner.device),
        "device": _device_name(run.learner.device),
        "precision": str(run.learner.model.dtype).removeprefix("torch."),
        "versions": _versions(),
        "git_commit": _git_commit(),
        "started": progress.started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _answer_rows(run: Run) -> list[dict[str, Any]]:
    rows = []
    for index, of_task in run.progress.answers.items():
        for j, answers in of_task.items():
            task = run.tasks[int(j)]
            for number, (answer, example) in enumerate(zip(answers, task.test, strict=True)):
                row = {"after": int(index), "task": task.name, "row": number, "answer": answer}
                rows.append(row | {"target": example.target} | _references(example))
    return rows


def _references(example: Example) -> dict[str, Any]:
    return {"references": list(example.references)} if example.references else {}


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("clbench", "torch", "transformers", "peft", "bitsandbytes", "pluggy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git_commit() -> str | None:
    """Return the commit of the source tree that this module runs from, marked '+' if it has changes."""
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
