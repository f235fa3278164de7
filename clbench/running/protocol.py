"""The protocol: learn one task after another, evaluate the cells asked for, resume after a kill."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pluggy
import torch

from clbench.answering.agreement import count_disagreement
from clbench.data.answer_scores import Metric, score_answers
from clbench.data.tasks import Task
from clbench.errors import ClbenchError, blame
from clbench.hookspecs import hookimpl
from clbench.learning.bookmarks import BookmarkError, random_states, set_random_states
from clbench.learning.divergence import NotFiniteError, describe
from clbench.learning.learner import Learner
from clbench.records.files import RunFiles
from clbench.records.metrics import cells_to_evaluate
from clbench.running.checkpoints import damaged, digest_of, load_checkpoint, restore_state, save_checkpoint, state_of
from clbench.running.loss_curve import loss_curve
from clbench.running.opening import OpenedRun
from clbench.running.peak_memory import PeakMemoryMeter
from clbench.running.probing import BEFORE, Prober, undisturbed
from clbench.running.remarks import on_losses, on_replay
from clbench.settings import Settings
from clbench.units import Every, counted

LOOKED_AT = 32  # training rows of a task whose loss before and after it is compared


@dataclass(eq=False)
class Progress:
    """What a run has reached; checkpointed after each task.

    `scores[i][j]` is the score on task j after learning task i, percent, None where not evaluated; `answers[i][j]` are the
    answers behind it, by the task numbers as text; `verified` counts where free answers and labels differ; `remarks` are what a
    reader must know; `probes` is what was measured beside the tasks, each time with `after` (a task's number), `values` and
    `seconds`; `untrained` are the scores before the first task; `notes` are for the record; `logs` is what watchers keep, by
    their names; `peak_memory` is the most memory, in bytes, that a session of the run took.
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
    peak_memory: int = 0
    remarks: list[dict[str, str]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    untrained: list[float | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, Any] = field(default_factory=dict)


def asked(task: Task, known: Mapping[str, Metric]) -> tuple[list[tuple[str, ...]], Mapping[str, Metric], list[str]]:
    """Return what scores of a task's answers are made of beside these: the right ones, the metrics by name, the questions."""
    return [example.accepted for example in task.test], known, [example.prompt for example in task.test]


@dataclass(eq=False)
class Run:
    """One run as a `run_stream` hook sees it: tasks to learn, cells to fill."""

    opened: OpenedRun
    learner: Learner
    hook: pluggy.HookRelay
    progress: Progress
    memory: PeakMemoryMeter
    every: Every = field(default_factory=Every)  # how often it is written down while it is evaluated
    prober: Prober | None = None  # measures what is lost beside the tasks

    def __post_init__(self) -> None:
        self._count = self.every.counter()
        self._learned_before: int | None = None  # the task that an earlier session learned, and did not wholly evaluate
        self._random: Mapping[str, Any] = {}  # where it left the random generators

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.opened.settings

    @property
    def tasks(self) -> Sequence[Task]:
        """The tasks, in the order of learning."""
        return self.opened.tasks

    @property
    def files(self) -> RunFiles:
        """The run's files."""
        return self.opened.files

    @property
    def method(self) -> object:
        """The method's instance."""
        return self.opened.instance

    @property
    def method_name(self) -> str:
        """The method's name."""
        return self.opened.method.name

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics on offer, by name."""
        return self.opened.plugins.metrics

    def blame(self, deed: str) -> AbstractContextManager[None]:
        """Return a context in which what is raised is the method's fault; the error says so."""
        return blame(f"method '{self.method_name}' {deed}", self._method_file)

    @property
    def _method_file(self) -> str | None:
        module = inspect.getmodule(type(self.method))
        return None if module is None else module.__file__

    def learn(self, task: Task, index: int) -> None:
        """Let the method learn a task as the stream's task `index`; keep its time and what it reports.

        Raises:
            ClbenchError: the method fails, reports nothing, or leaves weights that are not finite.
        """
        if self._learned_before == index and self._random:
            self.learner.begin_task(index, task)
            set_random_states(self._random, self.learner.device)
            self._random = {}
            return
        self._learned_before = None
        if not self.progress.learned:
            self._measure_before()
        some = task.train[:: max(1, len(task.train) // LOOKED_AT)][:LOOKED_AT]
        before = self.learner.passes.mean_loss(some)
        self.learner.begin_task(index, task)
        self._count = self.every.counter()
        try:
            with self.blame(f"failed on task '{task.name}'"):
                learned = self._learned(task)
        except ClbenchError as error:
            if isinstance(error.__cause__, NotFiniteError):  # it says where, and what it may come from
                raise ClbenchError(
                    f"method '{self.method_name}' failed on task '{task.name}': {error.__cause__}"
                ) from error
            if isinstance(error.__cause__, BookmarkError):
                raise ClbenchError(
                    f"{self.files.bookmark}: method '{self.method_name}' cannot go on from there: {error.__cause__}; remove "
                    f"it to learn task '{task.name}' anew"
                ) from error
            raise
        self.progress.learn_seconds.append(round(self.learner.cost.learn_seconds, 3))
        self.progress.learned.append(learned)
        after, tokens = self.learner.passes.mean_loss(some), len(self.learner.tokenizer)
        remarks = on_losses(task, self.learner.losses, before, after, tokens)
        remarks += on_replay(self.opened.method, self.opened.spec.options, self.tasks[:index], task, self.learner.cost)
        self.progress.remarks += map(asdict, remarks)
        self.progress.losses.append(loss_curve(self.learner.losses))
        self._save_if_due(index)

    def _learned(self, task: Task) -> dict[str, float]:
        """Let the method learn a task; return what it reports.

        Raises:
            BookmarkError: it was to go on from a step, and did not come there.
            NotFiniteError: it leaves weights that are not finite.
            TypeError: it reports nothing.
        """
        report = self.hook.learn_task(learner=self.learner, task=task)
        self.learner.bookmarks.end_task()
        if report is None:
            raise TypeError("learn_task returned None; return a mapping of numbers, {} for nothing to report")
        learned = {str(name): float(value) for name, value in report.items()}
        if not torch.isfinite(self.learner.weights.data).all():
            phase = self.learner.phase
            losses = torch.empty(0) if phase is None else phase.losses[: phase.taken]
            raise NotFiniteError(describe(self.learner.weights, losses, gradient=False))
        if self.learner.devices.count > 1:
            self._check_agreement(task, learned)
        return learned

    def _check_agreement(self, task: Task, learned: Mapping[str, float]) -> None:
        """Check that the processes of the run have learned the same.

        Raises:
            ClbenchError: they have not; what differs would be the first one's in the record.
        """
        parts = {
            "weights": self.learner.weights.data,
            "method's state": state_of(self.method),
            "numbers that it reports": learned,
        }
        found = self.learner.devices.gather({name: digest_of(part) for name, part in parts.items()})
        for name in parts:
            if any(other[name] != found[0][name] for other in found):
                raise ClbenchError(
                    f"method '{self.method_name}' on task '{task.name}': the processes do not agree on the {name}: it measures "
                    f"what one of them sees alone, or draws random numbers otherwise than from learner.generator; run it without "
                    f"torchrun"
                )

    def evaluate(self, index: int, which: Sequence[int]) -> None:
        """Ask the questions of the tasks `which` and fill row `index` of the scores.

        Raises:
            ClbenchError: the method fails or does not give one answer a question.
        """
        seconds = self._begin_row(index)
        for j in which:
            if self._learned_before == index and self.progress.scores[index][j] is not None:
                continue
            task = self.tasks[j]
            begin = time.perf_counter()
            answers, self.progress.scores[index][j] = self._asked(task)
            self.progress.answers.setdefault(str(index), {})[str(j)] = answers
            seconds.append(round(time.perf_counter() - begin, 3))
            self._save_if_due(index)
        for j in which if self.settings.verify_answers else ():
            task = self.tasks[j]
            metric, rows = self.metrics[task.metric], self.settings.verify_answers
            counts = count_disagreement(self.learner.asker, task, rows, metric, self.ask)
            if counts is not None:
                self.progress.verified.append({"after": index, "task": task.name, **counts})
        self._probe(index)

    def _asked(self, task: Task) -> tuple[list[str], float]:
        """Return the method's answers to a task's test questions, and their score."""
        answers = self.ask(task)
        with blame(f"metric '{task.metric}' failed on task '{task.name}'"):
            return answers, score_answers(task.metric, answers, *asked(task, self.metrics))

    def _measure_before(self) -> None:
        """Measure what is there before the first task: the probes and, where all cells are asked for, every task."""
        if self.prober is not None and self.prober.obstacle:
            self.progress.notes.append(self.prober.obstacle)
        try:
            self._probe(BEFORE)
            if self.settings.matrix == "full":
                with undisturbed(self.learner):
                    self.progress.untrained = [self._asked(task)[1] for task in self.tasks]
        except ClbenchError as error:  # a method need not answer before it has learned
            self.progress.notes.append(f"nothing was asked before the first task: {error}")

    def _probe(self, after: int) -> None:
        """Measure the probes after a task, once."""
        if self.prober is None or any(one["after"] == after for one in self.progress.probes):
            return
        begin = time.perf_counter()
        values = self.prober.measure(self.ask)
        seconds = round(time.perf_counter() - begin, 3)
        self.progress.probes.append({"after": after, "values": values, "seconds": seconds})

    def _begin_row(self, index: int) -> list[float]:
        """Return the seconds of a row of evaluations, which an earlier session may have begun."""
        kept = self.progress.evaluate_seconds
        if self._learned_before != index or len(kept) <= self.progress.done:
            kept.append([])
        return kept[-1]

    def ask(self, task: Task) -> list[str]:
        """Return the method's answers to a task's test questions.

        Raises:
            ClbenchError: the method fails or does not give one answer a question.
        """
        return ask_method(self.method_name, self.hook, self.learner, task, self._method_file)

    def check_complete(self) -> None:
        """Check that `run_stream` left a run that can be recorded: learned, and the cells asked for filled.

        A method that learns all at once has no scores but the last.

        Raises:
            ClbenchError: nothing was learned, a cell is missing, or a score is no percentage.
        """
        count, scores, by = len(self.tasks), self.progress.scores, f"'{self.method_name}' ({self.opened.method.origin})"
        if not self.progress.learned:
            raise ClbenchError(f"method {by}: run_stream learned nothing; call run.learn(task, index) for each task")
        try:
            _check_scores(scores, count)
        except (TypeError, ValueError) as error:
            raise ClbenchError(f"method {by}: run_stream left scores that are none: {error}") from None
        rows = range(count) if len(self.progress.learned) == count else [count - 1]
        missing = [
            f"task {j + 1} after task {i + 1}"
            for i in rows
            for j in cells_to_evaluate(self.settings.matrix, i, count)
            if scores[i][j] is None
        ]
        if missing:
            raise ClbenchError(
                f"method {by}: run_stream left {len(missing)} scores out, the first of {missing[0]}; "
                f"call run.evaluate(index, tasks) for each row"
            )

    def finish_task(self, index: int) -> None:
        """Write the checkpoint from which the same command goes on with the next task.

        Raises:
            ClbenchError: the method's state holds something that cannot be stored.
        """
        self.progress.done = index + 1
        self._save()

    def _save_if_due(self, index: int) -> None:
        """Write the checkpoint from which the same command goes on with the evaluation after a task."""
        if len(self.progress.learned) == index + 1 and self._count.is_due():
            self._save()

    def _save(self) -> None:
        self._count = self.every.counter()
        self.note_memory()
        self.learner.devices.first_does(self._save_checkpoint)

    def _save_checkpoint(self) -> None:
        content = {
            "progress": vars(self.progress),  # as it is: it may be long
            "weights": self.learner.weights.data,
            "method": state_of(self.method),
            "random": random_states(self.learner.device),
        }
        try:
            save_checkpoint(self.files.checkpoint, content, self.opened.identity)
        except TypeError as error:
            raise ClbenchError(f"method '{self.method_name}': {error}") from error
        self.files.bookmark.unlink(missing_ok=True)

    def keep_bookmark(self, bookmark: dict[str, Any]) -> None:
        """Write where the task that is being learned stands, from which the same command goes on.

        Raises:
            ClbenchError: the method keeps something that cannot be stored.
        """
        self._count = self.every.counter()
        self.note_memory()
        content = {"after": len(self.progress.learned), "peak_memory": self.progress.peak_memory, "bookmark": bookmark}
        try:
            save_checkpoint(self.files.bookmark, content, self.opened.identity)
        except TypeError as error:
            raise ClbenchError(f"method '{self.method_name}': {error}") from error

    def note_memory(self) -> None:
        """Keep the most memory that this session or an earlier one took."""
        self.progress.peak_memory = max(self.progress.peak_memory, self.memory.read())

    def begin(self) -> None:
        """Take up checkpoint and bookmark, where there are any, and put the trainable weights on the model."""
        self._take_up_checkpoint()
        if self.learner.bookmarks.are_taken and self.files.bookmark.exists():
            path = self.files.bookmark
            content = load_checkpoint(path, torch.device("cpu"), self.opened.identity)
            try:
                if content["after"] == len(self.progress.learned):  # otherwise a kill came before it was removed
                    self.progress.peak_memory = max(self.progress.peak_memory, content["peak_memory"])
                    self.learner.bookmarks.go_on_from(content["bookmark"])
            except (KeyError, TypeError) as error:
                raise damaged(path, error) from None

    def _take_up_checkpoint(self) -> None:
        if not self.learner.devices.first_does(self.files.checkpoint.exists):
            with self.blame("failed to attach its weights"):
                self.hook.attach(learner=self.learner)
            return
        path = self.files.checkpoint
        content = load_checkpoint(path, self.learner.device, self.opened.identity)
        self.progress = read_progress(path, content, len(self.tasks))
        if content["method"].keys() != state_of(self.method).keys():
            raise damaged(
                path, f"the method's state is {sorted(state_of(self.method))}, not {sorted(content['method'])}"
            )
        if len(self.progress.learned) > self.progress.done:
            self._learned_before, self._random = self.progress.done, content["random"]
        restore_state(self.method, content["method"])
        with self.blame("failed to attach its weights"):
            self.hook.attach(learner=self.learner)
        try:
            self.learner.weights.assign(content["weights"])
        except (ValueError, AttributeError) as error:
            raise damaged(path, error) from None


def read_progress(path: Path, content: Mapping[str, Any], tasks: int) -> Progress:
    """Return the progress that a checkpoint holds, of a run over so many tasks.

    Raises:
        ClbenchError: it cannot be that of such a run.
    """
    try:
        progress = Progress(**content["progress"])
        if not 0 <= progress.done <= tasks:
            raise ValueError(f"{progress.done} of {tasks} tasks are done")
        _check_scores(progress.scores, tasks)
        if not progress.done <= len(progress.learned) == len(progress.learn_seconds) <= progress.done + 1:
            raise ValueError(f"{len(progress.learned)} reports on {progress.done} tasks")
        if any(int(row) >= len(progress.learned) for row in progress.answers):
            raise ValueError("answers after a task that was not learned")
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
    return progress


def _check_scores(scores: Sequence[Sequence[float | None]], tasks: int) -> None:
    """Check that scores are a matrix of percentages.

    Raises:
        ValueError: they are not.
    """
    if [len(row) for row in scores] != [tasks] * tasks:
        raise ValueError(f"the scores of {tasks} tasks are no {tasks} x {tasks} matrix")
    for score in (score for row in scores for score in row if score is not None):
        if not 0 <= score <= 100:
            raise ValueError(f"a score is {score}, not 0 to 100")


def ask_method(name: str, hook: pluggy.HookRelay, learner: Learner, task: Task, file: str | None = None) -> list[str]:
    """Return a method's answers to a task's test questions, by its `evaluate` hook.

    Args:
        file: the method's own, for the error.

    Raises:
        ClbenchError: the method fails or does not give one answer a question.
    """
    with blame(f"method '{name}' failed to answer task '{task.name}'", file):
        found = hook.evaluate(learner=learner, task=task)
        answers = [found] if isinstance(found, str) else list(found)
        strange = [type(answer).__name__ for answer in answers if not isinstance(answer, str)]
        for answer in () if strange else answers:
            answer.encode()  # half a character cannot be written down
    if isinstance(found, str) or strange or len(answers) != len(task.test):
        gave = "one text" if isinstance(found, str) else counted(len(answers), "answer")
        gave += f", one of type {strange[0]}," if strange else ""
        by = f"'{name}' ({file})" if file else f"'{name}'"
        raise ClbenchError(
            f"method {by} gave {gave} to the {counted(len(task.test), 'question')} of task '{task.name}'; "
            f"evaluate returns a list with one text a question"
        )
    return answers


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
        learner.attached.add_lora()
        return True

    @hookimpl(trylast=True)
    def evaluate(self, learner: Learner, task: Task) -> list[str]:
        """Answer with the learner as it is."""
        return learner.answer(task.test, labels=task.labels)
