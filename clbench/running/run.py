"""Execute one run, from its checkpoint if there is one, and write its record."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clbench.atomic import write_atomically
from clbench.data.sources import check_labels_round_trip, fingerprint, fingerprint_questions
from clbench.data.tasks import Example, Stream, Task
from clbench.discovery import Method, Plugins, run_manager
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, adapted_modules
from clbench.records import metrics
from clbench.records.files import SCHEMA_VERSION, RunFiles
from clbench.running.cost import CostMeter
from clbench.running.protocol import DefaultProtocol, Progress, Run
from clbench.settings import Settings

LEARNER_FILE = "learner.json"  # in the folder of a saved run


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
        audit: the verdict on the data (`clbench.data.audit`), to be kept in the record.

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
        learner.asker.trie(task.labels)  # labels that cannot be told apart are refused before anything is learned
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
        learner.attached.detach()
    return record


def _save_learner(learner: Learner, method: Method, options: Mapping[str, Any], folder: Path) -> None:
    """Write the weights, and beside them what `clbench.running.saved_learner.load_learner` needs to make their learner again."""
    learner.attached.save(folder)
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
        "about": method.facts(options),
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
        "lora_targets": adapted_modules(run.learner.attached.adapter, settings),
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
