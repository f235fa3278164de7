"""Tells a run to an experiment tracker: the watcher behind `--track`; what speaks to each tracker is a page `track_NAME`."""

from __future__ import annotations

import io
import logging
import random
import re
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

import msgspec
import torch
from torch import Tensor

from clbench.atomic import write_atomically
from clbench.data.tasks import Task
from clbench.errors import one_line
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.records.files import RunFiles
from clbench.records.record import Record
from clbench.running.protocol import Progress, Run
from clbench.running.watchers.follower import OFTEN
from clbench.running.watchers.pruning import reached
from clbench.spec import Value

LOGGER = logging.getLogger("clbench.tracking")
PROJECT = "clbench"  # under which the runs stand in a tracker, unless the tracker's own variable says otherwise
FOLDER = "tracking"  # within the results folder, for what a tracker writes on this machine

Axis = Literal["step", "task"]  # what values are over: optimizer steps of the run, or tasks learned, both from 1
Rows = Sequence[tuple[int, Mapping[str, float]]]  # values by their names, each with its place on the axis


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins, or goes on.

    Attributes:
        key: one of its own, the same in each session of the run: hexadecimal digits.
        folder: for what the tracker writes on this machine.
        config: method, stream, seed, the method's options and the settings.
        steps: how many optimizer steps are done; what an earlier session told of later ones is told anew.
        goes_on: whether an earlier session began to tell it.
    """

    name: str
    key: str
    folder: Path
    group: str | None
    config: Mapping[str, Value]
    steps: int
    goes_on: bool


class Tracker(Protocol):
    """An experiment tracker in which one run is open; its module has a function `begin(run: TrackedRun) -> Tracker`."""

    def log(self, axis: Axis, rows: Rows) -> None:
        """Show values over steps or tasks."""

    def end(self, state: Literal["done", "failed"], summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Close the run; of one that is done, show its measures, and keep its files."""


class TrackingWatcher:
    """Tells a run to one tracker: its settings, loss, learning rate, scores as they come, costs, measures, and its record.

    Nothing that the tracker does reaches the run: it draws no random number, its time is no learning, it prints nothing, and an
    error is one line of the log, after which the tracker is told nothing more. No tensor is held: the cost meter would find it.
    """

    def __init__(self, name: str, group: str | None, begin: Callable[[TrackedRun], Tracker] | None = None) -> None:
        self.name, self.group = name, group
        self._begin = begin
        self._tracker: Tracker | None = None
        self._run: Run | None = None
        self._rates: dict[int, float] = {}  # of the task that is learned, by step
        self._step = self._told = 0  # of this task: where it stands, and how many losses were told
        self._when = time.monotonic()
        self._cells: set[tuple[int, int]] = set()
        self._costs = 0  # tasks whose costs were told

    @hookimpl(wrapper=True)
    def run_stream(self, run: Run) -> Generator[None, bool, bool]:
        """Begin, or go on; what an earlier session reached is told again, since its last words may have been lost."""
        self._run = run
        with self._guarded("begin"):
            begin: Callable[[TrackedRun], Tracker] = (
                self._begin or import_module(f"clbench.running.watchers.track_{self.name}").begin
            )
            self._tracker = begin(_tracked(run, self.group))
            self._tell_tasks()
        return (yield)

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Tell the scores before a task and its last losses after it."""
        self._rates, self._step, self._told = {}, 0, 0
        with self._guarded("log"), learner.cost.aside():
            self._tell_tasks()
        result = yield
        with self._guarded("log"), learner.cost.aside():
            self._tell_losses(learner)
        return result

    @hookimpl
    def train_step(self, learner: Learner, step: int, steps: int, loss: Tensor) -> None:
        """Note the learning rate; tell the losses every few seconds, in one wait for the device."""
        if self._step == 0:  # a task that goes on from within has losses before this one
            self._step = len(_losses(learner)) - 1
        self._step += 1
        assert learner.phase is not None  # its step it is
        self._rates[self._step] = learner.phase.learning_rate
        if time.monotonic() - self._when > OFTEN:
            with self._guarded("log"), learner.cost.aside():
                self._tell_losses(learner)

    @hookimpl(wrapper=True)
    def evaluate(self, learner: Learner, task: Task) -> Generator[None, Sequence[str], Sequence[str]]:
        """Tell what is filled so far."""
        with self._guarded("log"):
            self._tell_tasks()
        return (yield)

    @hookimpl
    def run_ended(self, run: Run, record: Record | None) -> None:
        """Tell the last scores and, of a run that is done, its measures and files."""
        with self._guarded("end"):
            self._tell_tasks()
            tracker, self._tracker = self._tracker, None
            if tracker is not None and record is None:
                tracker.end("failed", {}, [])
            elif tracker is not None and record is not None:
                tracker.end("done", _summary(record), [run.files.record, run.files.answers])

    def _tell_losses(self, learner: Learner) -> None:
        self._when = time.monotonic()
        assert self._run is not None  # `run_stream` calls everything else
        before, losses = _steps_done(self._run.progress), _losses(learner)
        rows = [(before + n, self._at(n, losses[n - 1])) for n in range(self._told + 1, len(losses) + 1)]
        if self._tracker is not None and rows:
            self._tracker.log("step", rows)
        self._told = len(losses)

    def _at(self, step: int, loss: float) -> dict[str, float]:
        rate = self._rates.get(step)
        return {"train/loss": loss, **({} if rate is None else {"train/learning_rate": rate})}

    def _tell_tasks(self) -> None:
        """Tell the cells that were filled, and the costs of tasks that were counted, since this was called last."""
        if self._run is None:  # it failed before it began
            return
        progress = self._run.progress
        names = [task.name for task in self._run.tasks]
        rows: list[tuple[int, dict[str, float]]] = []
        for i, scores in enumerate(progress.scores):
            new = {j: score for j, score in enumerate(scores) if score is not None and (i, j) not in self._cells}
            self._cells |= {(i, j) for j in new}
            values = {f"score/{names[j]}": score for j, score in new.items()}
            mean = reached(progress.scores)[i]
            if new and mean is not None:
                values["score/mean_so_far"] = mean
            rows += [(i + 1, values)] if values else []
        for i in range(self._costs, len(progress.learned)):
            rows.append((i + 1, _costs(progress, i)))
        self._costs = len(progress.learned)
        if self._tracker is not None and rows:
            self._tracker.log("task", rows)

    @contextmanager
    def _guarded(self, deed: str) -> Iterator[None]:
        """Let nothing out of the block: no error, no warning, no line on standard output, no other random numbers."""
        state = random.getstate()
        said = io.StringIO()
        try:
            with redirect_stdout(said), warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                yield
        except (Exception, SystemExit) as error:
            self._tracker = None
            run = "" if self._run is None else f"{self._run.opened.spec}: "
            text = f"{run}{self.name} cannot {deed}, and is told nothing more of this run: {one_line(error)}"
            LOGGER.warning(text, extra={"fields": {"tracker": self.name}})
        finally:
            random.setstate(state)


def _tracked(run: Run, group: str | None) -> TrackedRun:
    """Return what there is to say of a run, with the key that it has in its trackers: kept beside it until it is done."""
    spec, files = run.opened.spec, run.files
    key = _kept_key(files)
    if key is None:
        write_atomically(files.tracking, partial(Path.write_text, data=uuid4().hex, encoding="utf-8"))
    return TrackedRun(
        name=files.name,
        key=key or _kept_key(files) or uuid4().hex,
        folder=files.folder / FOLDER,
        group=group,
        config={
            "method": spec.method,
            "stream": spec.stream,
            "seed": spec.seed,
            **{f"options.{name}": value for name, value in spec.options.items()},
            **spec.recorded_settings,
        },
        steps=_steps_done(run.progress),
        goes_on=key is not None,
    )


def _kept_key(files: RunFiles) -> str | None:
    try:
        key = files.tracking.read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    return key if re.fullmatch("[0-9a-f]{32}", key) else None


def _steps_done(progress: Progress) -> int:
    return sum(curve["of"] for curve in progress.losses)


def _losses(learner: Learner) -> list[float]:
    """Return the loss of each step taken in the task so far; waits for the device."""
    losses = torch.cat([phase.detach().float().cpu() for phase in learner.losses]) if learner.losses else torch.empty(0)
    taken: list[float] = losses[~losses.isnan()].tolist()
    return taken


def _costs(progress: Progress, task: int) -> dict[str, float]:
    """Return what a task has cost."""
    counted = progress.costs[task] if task < len(progress.costs) else {}
    named = {f"cost/{name}": value for name, value in counted.items() if value is not None}
    return {"cost/learn_seconds": progress.learn_seconds[task], **named}


def _summary(record: Record) -> dict[str, float]:
    """Return the numbers that stand for a finished run."""
    times = record.timings
    found = {
        **msgspec.structs.asdict(record.metrics),
        "learn_seconds": sum(times.learn_seconds),
        "evaluate_seconds": sum(map(sum, times.evaluate_seconds)),
        "peak_memory_bytes": record.peak_memory.bytes,
        "trainable_weights": record.trainable_weights,
    }
    return {name: float(value) for name, value in found.items() if value is not None}
