"""Execute one run, from its checkpoint if there is one, and write its record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from clbench.atomic import make_folder, write_folder_atomically
from clbench.data.answer_scores import Metric, lost_answers, lost_text, score_answers, score_each
from clbench.data.audit import Audit
from clbench.data.probes import Probes
from clbench.data.sources import check_labels_round_trip
from clbench.data.tasks import Task
from clbench.discovery import run_manager
from clbench.encoding.encoder import longest_answer
from clbench.encoding.round_trip import unread, written
from clbench.errors import ClbenchError, blame
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, adapted_modules
from clbench.model.devices import ALONE, Devices
from clbench.model.frozen import Frozen
from clbench.model.reach import check_reach
from clbench.records import metrics
from clbench.records.answers import AnswerRow
from clbench.records.heartbeat import Heartbeat
from clbench.records.record import AboutMethod, MethodInfo, PeakMemory, Record, StreamInfo, TaskInfo, make_record
from clbench.running.cost import CostMeter
from clbench.running.environment import describe_environment
from clbench.running.opening import OpenedRun
from clbench.running.peak_memory import PeakMemoryMeter
from clbench.running.plain_folder import answers_itself
from clbench.running.probing import Prober
from clbench.running.protocol import DefaultProtocol, Progress, Run, asked
from clbench.running.remarks import (
    Remark,
    on_answers,
    on_backbone,
    on_memory,
    on_processes,
    on_prompts,
    on_targets,
)
from clbench.running.saved_learner import save_learner
from clbench.running.watchers.follower import Follower
from clbench.spec import PROTOCOL_VERSION
from clbench.units import TEN_MINUTES, Every


def execute_run(
    opened: OpenedRun,
    backbone: Backbone,
    watchers: Sequence[object] = (),
    save_adapter: bool = False,
    audit: Audit | None = None,
    devices: Devices = ALONE,
    every: Every = TEN_MINUTES,
) -> Record:
    """Run one method on one stream, from its checkpoint if there is one; write and return the record.

    Where other processes may make the same run, the caller holds `opened.files.lock()`.

    Args:
        audit: the audit of the data, whose verdict is to be kept in the record.
        devices: the processes that share the run; the first one writes.
        every: how often the run is written down within a task, if the method can go on from there; on several
            devices, which would not agree on the time, never.

    Raises:
        ClbenchError: the method or a setting fails; what was written down last stays.
    """
    settings, tasks, files = opened.settings, opened.tasks, opened.files
    heartbeat = Heartbeat(files)
    core = [DefaultProtocol(), CostMeter(opened.instance), Follower([heartbeat.note] if devices.first else [])]
    manager = run_manager(opened.plugins, opened.instance, opened.method.name, [*core, *watchers])
    learner = Learner(backbone, settings, manager.hook, len(tasks), devices=devices)
    _check_tasks(opened, learner)
    empty = Progress([[None] * len(tasks) for _ in tasks], started=_now())
    every = every if devices.count == 1 else Every()
    run = Run(opened, learner, manager.hook, empty, PeakMemoryMeter(learner.device), every)
    if every and opened.method.about.resumes_within_tasks:
        learner.bookmarks.begin_taking(run.keep_bookmark, every)
    if devices.first:
        make_folder(files.folder)
    frozen, changed, record = Frozen.of(backbone.model), None, None
    try:
        with heartbeat if devices.first else nullcontext():
            run.begin()
            run.prober = _make_prober(run)
            check_texts_can_be_read(learner, tasks, run.prober)
            with run.blame("failed"):
                manager.hook.run_stream(run=run)
            run.check_complete()
            changed = frozen.changed()
            record = devices.first_does(partial(_write, run, save_adapter, audit, changed))
    finally:
        changed = frozen.changed() if changed is None else changed  # of a run that failed
        learner.attached.detach()
        backbone.spoiled = [*changed, *frozen.replaced(backbone.model)]
        with blame("a plugin failed in run_ended"):
            manager.hook.run_ended(run=run, record=record)
    return record


def _check_tasks(opened: OpenedRun, learner: Learner) -> None:
    """Refuse, before anything is learned, labels that the backbone cannot write or tell apart."""
    for task in opened.tasks:
        check_labels_round_trip(task.labels, opened.plugins.metrics[task.metric])
        check_labels_can_be_written(task, opened.plugins.metrics[task.metric], learner.backbone)
        if task.labels and (opened.settings.answers == "labels" or opened.settings.verify_answers > 0):
            learner.asker.trie(task.labels)


def _write(run: Run, save_adapter: bool, audit: Audit | None, changed: Sequence[str]) -> Record:
    """Write all that a finished run leaves, and return its record; `changed` are the frozen tensors that it changed."""
    files = run.files
    record = record_of(run, audit, remarks_on(run, changed))
    if save_adapter:
        write_folder_atomically(files.adapter, partial(save_learner, run, record))
    files.write_record(record, _answer_rows(run))
    files.forget_progress()
    files.failure.unlink(missing_ok=True)
    return record


def remarks_on(run: Run, changed: Sequence[str]) -> list[Remark]:
    """Return what a reader of a finished run's scores must know.

    Args:
        changed: names of the frozen tensors that the run changed.
    """
    kept = [msgspec.convert(remark, Remark) for remark in run.progress.remarks]
    last = run.progress.answers.get(str(len(run.tasks) - 1), {})
    beforehand = remarks_beforehand(run.opened, run.learner.tokenizer)
    return [*beforehand, *kept, *on_answers(run.tasks, last), *on_backbone(changed)]


def remarks_beforehand(opened: OpenedRun, tokenizer: Any) -> list[Remark]:
    """Return what a reader of a run's scores must know, as far as that is known before anything is learned."""
    found = on_memory(opened.method, opened.spec.options, opened.tasks)
    for task in opened.tasks:
        found += on_prompts(task, partial(unread, tokenizer))
        found += on_targets(task, opened.plugins.metrics[task.metric], partial(written, tokenizer))
    return found


def check_labels_can_be_written(task: Task, metric: Metric, backbone: Backbone) -> None:
    """Check that each label of a task comes back from the tokenizer as the same answer.

    Raises:
        ClbenchError: one does not; the model could never be right.
    """
    lost = lost_answers(metric, task.labels, written(backbone.tokenizer, task.labels)) if task.labels else []
    if lost:
        raise ClbenchError(
            f"task '{task.name}': backbone '{backbone.name}' cannot write {len(lost)} of {len(task.labels)} labels: "
            f"{lost_text(lost)}; give other labels (label_names), or another backbone"
        )


def _make_prober(run: Run) -> Prober | None:
    opened = run.opened
    if opened.probes == Probes():
        return None
    return Prober(opened.probes, run.learner, opened.method.about, answers_itself(run.hook))


def check_texts_can_be_read(learner: Learner, tasks: Sequence[Task], prober: Prober | None = None) -> None:
    """Check, before anything is learned, that the model can read every prompt with its answer, and what a method puts beside it.

    Raises:
        ClbenchError: an instruction alone is too long, a token has no embedding, or a text has more tokens than positions.
    """
    settings, rows, answers = learner.settings, [], []
    if prober is not None:
        rows += prober.rows
        answers += [0] * len(rows)
    for task in [*tasks, *(() if prober is None else prober.questions)]:
        labels = task.labels if settings.answers == "labels" else ()
        most = learner.asker.trie(labels).depth if labels else settings.max_answer
        try:
            rows += learner.feed.encoder.encode([*task.train, *task.test])
        except ClbenchError as error:  # an instruction that does not fit: before the first task is learned
            raise ClbenchError(f"task '{task.name}': {error}") from None
        answers += [0] * len(task.train) + [most or longest_answer(question) for question in task.test]
    check_reach(learner.backbone, rows, answers)


def record_of(run: Run, audit: Audit | None, remarks: Sequence[Remark] = ()) -> Record:
    """Return a finished run's record."""
    progress, opened, model = run.progress, run.opened, run.learner.model
    environment = describe_environment(run.learner.device, model.dtype, tuple(opened.plugins.modules))
    processes = run.learner.devices.count
    run.note_memory()
    return make_record(
        protocol_version=PROTOCOL_VERSION,
        name=run.files.name,
        identity=opened.identity,
        method=_method_info(opened),
        stream=StreamInfo(name=opened.stream.name, family=opened.stream.family, order=opened.stream.order),
        seed=opened.spec.seed,
        settings=opened.spec.recorded_settings,
        tasks=_task_infos(run),
        scores=progress.scores,
        further_scores=_further_scores(run),
        metrics={
            "op": metrics.overall_performance(progress.scores),
            "bwt": metrics.backward_transfer(progress.scores),
            "forgetting": metrics.forgetting(progress.scores),
            "fwt": metrics.transfer_to_unlearned(progress.scores, progress.untrained),
        },
        learned=progress.learned,
        untrained=progress.untrained,
        probes=[] if run.prober is None else run.prober.records(progress.probes, len(run.tasks)),
        costs=costs_of(progress),
        losses=progress.losses,
        verified_answers=progress.verified,
        timings={"learn_seconds": progress.learn_seconds, "evaluate_seconds": progress.evaluate_seconds},
        lora_targets=adapted_modules(run.learner.attached.adapter, run.settings),
        trainable_weights=len(run.learner.weights),
        peak_memory=PeakMemory(bytes=progress.peak_memory, of=run.memory.of),
        digests=opened.digests,
        environment=msgspec.structs.replace(environment, processes=processes),
        audit=None if audit is None else audit.verdict,
        started=progress.started,
        finished=_now(),
        marks=list(dict.fromkeys(remark.mark for remark in remarks)),
        notes=[
            *(remark.note for remark in remarks),
            *progress.notes,
            *([on_processes(processes)] if processes > 1 else []),
        ],
    )


def costs_of(progress: Progress) -> list[dict[str, float | None]]:
    """Return what each task cost, with the seconds of the probes after it; the first one's are also those before it."""
    costs = [{**cost, "probe_seconds": 0.0} for cost in progress.costs]
    for one in progress.probes if costs else ():
        cost = costs[min(max(0, one["after"]), len(costs) - 1)]
        cost["probe_seconds"] = round((cost["probe_seconds"] or 0.0) + one["seconds"], 3)
    return costs


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _method_info(opened: OpenedRun) -> MethodInfo:
    method, options = opened.method, dict(opened.spec.options)
    changed = {name: value for name, value in options.items() if value != method.options[name].default}
    return MethodInfo(
        name=method.name,
        origin=method.origin,
        options=options,
        changed_options=changed,
        about=AboutMethod(**method.facts(options)),
    )


def _task_infos(run: Run) -> list[TaskInfo]:
    encode = run.learner.feed.encoder.encode
    return [
        TaskInfo(
            name=task.name,
            version=run.opened.stream.spec(task.name).version,
            metric=task.metric,
            further_metrics=task.further_metrics,
            shortened=sum(row.cut for row in encode([*task.train, *task.test])),
            train=len(task.train),
            test=len(task.test),
            validation=len(task.validation),
            labels=task.labels,
        )
        for task in run.tasks
    ]


def _further_scores(run: Run) -> dict[str, list[list[float | None]]]:
    """Return the matrix of scores by each metric that a task names beside its first; none in the columns of other tasks."""
    matrices: dict[str, list[list[float | None]]] = {}
    for name in dict.fromkeys(name for task in run.tasks for name in task.further_metrics):
        matrices[name] = [[None] * len(run.tasks) for _ in run.tasks]
    for index, of_task in run.progress.answers.items():
        for j, answers in of_task.items():
            task = run.tasks[int(j)]
            for name in task.further_metrics:
                with blame(f"metric '{name}' failed on task '{task.name}'"):
                    score = score_answers(name, answers, *asked(task, run.metrics))
                matrices[name][int(index)][int(j)] = score
    return matrices


def _answer_rows(run: Run) -> list[AnswerRow]:
    rows = []
    for index, of_task in run.progress.answers.items():
        for j, answers in of_task.items():
            task = run.tasks[int(j)]
            with blame(f"metric '{task.metric}' failed on task '{task.name}'"):
                scores = score_each(task.metric, answers, *asked(task, run.metrics))
            for number, (answer, example, score) in enumerate(zip(answers, task.test, scores, strict=True)):
                said = AnswerRow(
                    after=int(index),
                    task=task.name,
                    row=number,
                    answer=answer,
                    target=example.target,
                    references=example.references,
                    id=example.id,
                    score=score,
                )
                rows.append(said)
    return rows
