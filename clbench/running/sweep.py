"""Make many runs on an engine: those that are missing, each once, whoever else makes some of them and whatever is killed."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from clbench.errors import ClbenchWarning
from clbench.records.files import RunFiles
from clbench.records.heartbeat import read_beat
from clbench.running.opening import RunOpener
from clbench.running.remarks import on_memory
from clbench.running.worker import Outcome, Setup, note_failure
from clbench.spec import RunSpec

WAIT = 1.0  # seconds between two looks at what has ended
HELD = 2.0  # seconds between two looks at a run that another process holds


class Engine(Protocol):
    """Places runs and starts them; a run that it lost comes back as died."""

    @property
    def room(self) -> int:
        """How many runs can be started now."""

    def choose(self, waiting: Sequence[RunSpec]) -> int:
        """Return the place of the run to start next."""

    def start(self, spec: RunSpec) -> None:
        """Start a run."""

    def wait(self, seconds: float) -> list[tuple[RunSpec, Outcome]]:
        """Return the runs that have ended, at the latest after some seconds."""

    def close(self) -> None:
        """End what is still at work."""


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, and its files."""

    spec: RunSpec
    files: RunFiles


def open_runs(specs: Sequence[RunSpec], opener: RunOpener) -> list[SweepRun]:
    """Return the runs with their files; a memory that will keep nothing is warned of.

    Raises:
        ClbenchError: data, backbone or an option of one of them is not to be had.
    """
    runs = []
    for spec in specs:
        opened = opener.open(spec)
        runs.append(SweepRun(spec, opened.files))
        for remark in on_memory(opened.method, opened.spec.options, opened.tasks):
            warnings.warn(f"{spec.method}: {remark.note}", ClbenchWarning, stacklevel=2)
    return runs


class Watcher(Protocol):
    """Shows a sweep."""

    def tell(self, run: SweepRun, outcome: Outcome, final: bool) -> None:
        """An attempt at a run has ended; `final`: there will be no other."""

    def look(self, running: Sequence[SweepRun], left: int) -> None:
        """Called about once a second: what runs here now, and how many runs wait."""


class Sweep:
    """Makes the missing ones of some runs.

    A run that fails, or whose process dies, is tried again up to `retries` times; a process that died after it got on does not
    count. A run that another process holds is taken up when that has let go of it without having finished.
    """

    def __init__(self, setup: Setup, engine: Engine, watcher: Watcher, retries: int = 2) -> None:
        self.setup = setup
        self.engine = engine
        self.watcher = watcher
        self.retries = retries
        self.failures: dict[SweepRun, str] = {}
        self._waiting: list[SweepRun] = []
        self._running: dict[RunSpec, SweepRun] = {}
        self._held: dict[SweepRun, float] = {}
        self._tries: Counter[SweepRun] = Counter()
        self._reached: dict[SweepRun, list[int]] = {}

    def make(self, runs: Sequence[SweepRun], clock: Callable[[], float] = time.monotonic) -> dict[SweepRun, str]:
        """Make the runs; return those that failed, with their last lines."""
        self._waiting = [run for run in runs if not self.setup.is_done(run.files)]
        try:
            while self._waiting or self._running or self._held:
                self._take_up(clock())
                self._start(clock())
                self.watcher.look(list(self._running.values()), len(self._waiting) + len(self._held))
                for spec, outcome in self.engine.wait(WAIT):
                    self._note(self._running.pop(spec), outcome, clock())
        finally:
            self.engine.close()
        return self.failures

    def _start(self, now: float) -> None:
        while self._waiting and self.engine.room > 0:
            run = self._waiting.pop(self.engine.choose([one.spec for one in self._waiting]))
            if self.setup.is_done(run.files):
                self.watcher.tell(run, Outcome("done", f"{run.spec}: made by another process"), final=True)
            elif read_beat(run.files) is not None:
                self._hold(run, "another process makes it", now)
            else:
                self._reached[run] = _mark(run.files)
                self._running[run.spec] = run
                self.engine.start(run.spec)

    def _hold(self, run: SweepRun, why: str, now: float) -> None:
        if run not in self._held:
            self.watcher.tell(run, Outcome("held", why), final=False)
        self._held[run] = now + HELD

    def _take_up(self, now: float) -> None:
        for run, when in list(self._held.items()):
            if now < when:
                continue
            if self.setup.is_done(run.files):
                self.watcher.tell(run, Outcome("done", f"{run.spec}: made by another process"), final=True)
                del self._held[run]
            elif read_beat(run.files) is None:
                self._waiting.append(run)
                del self._held[run]
            else:
                self._held[run] = now + HELD

    def _note(self, run: SweepRun, outcome: Outcome, now: float) -> None:
        if outcome.state == "held":
            self._hold(run, outcome.text, now)
            return
        if outcome.state == "died" and self.setup.is_done(run.files):
            outcome = Outcome("done", f"{run.spec}: done")  # it died after its last deed
        if outcome.state != "done":
            got_on = outcome.state == "died" and _mark(run.files) != self._reached[run]
            self._tries[run] += not got_on
        final = outcome.state == "done" or self._tries[run] > self.retries
        self.watcher.tell(run, outcome, final)
        if not final:
            self._waiting.append(run)
        elif outcome.state != "done":
            self.failures[run] = outcome.text
            note_failure(run.files, outcome.text)


def _mark(files: RunFiles) -> list[int]:
    """Return what changes when a checkpoint or a bookmark is written."""
    found = []
    for path in (files.checkpoint, files.bookmark):
        with suppress(OSError):
            found.append(path.stat().st_mtime_ns)
    return found
