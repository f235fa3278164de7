"""This machine: this process alone, or worker processes. One that dies is replaced, none outlives the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from clbench.running.worker import Outcome, Setup, Worker
from clbench.spec import RunSpec

CLOSING = 10.0  # seconds for a worker to leave, before it is killed


class ThisProcess:
    """Makes one run at a time, here."""

    def __init__(self, setup: Setup) -> None:
        self._worker = Worker(setup)
        self._next: RunSpec | None = None

    @property
    def room(self) -> int:
        """How many runs can be started now."""
        return int(self._next is None)

    def choose(self, waiting: Sequence[RunSpec]) -> int:
        """Return the place of the run to start next: one on the backbone that is loaded, else the first."""
        loaded = self._worker.maker.loaded
        return next((n for n, spec in enumerate(waiting) if spec.settings.backbone_arguments == loaded), 0)

    def start(self, spec: RunSpec) -> None:
        """Take a run; `wait` makes it."""
        self._next = spec

    def wait(self, seconds: float) -> list[tuple[RunSpec, Outcome]]:
        """Make the run, if there is one, and return how it ended."""
        if self._next is None:
            time.sleep(seconds)
            return []
        spec, self._next = self._next, None
        return [(spec, self._worker.make(spec))]

    def close(self) -> None:
        """Nothing is at work."""


@dataclass(eq=False)
class _Process:
    process: SpawnProcess
    line: Connection
    spec: RunSpec | None = None  # what it makes just now


class LocalProcesses:
    """Up to `jobs` worker processes; each keeps its backbone, and takes runs on the same one first."""

    def __init__(self, setup: Setup, jobs: int) -> None:
        self.setup = replace(setup, threads=setup.threads or max(1, _cpus() // jobs))
        self.jobs = jobs
        self._workers: list[_Process] = []
        self._started = 0
        self._kept: dict[int, object] = {}  # the backbone of each worker's last run, by the worker's process number

    @property
    def room(self) -> int:
        """How many runs can be started now."""
        return self.jobs - sum(worker.spec is not None for worker in self._workers)

    def choose(self, waiting: Sequence[RunSpec]) -> int:
        """Return the place of the run to start next: one whose backbone an idle worker has, else the first."""
        kept = [self._kept.get(one.process.pid or 0) for one in self._workers if one.spec is None]
        fitting = (n for n, spec in enumerate(waiting) if spec.settings.backbone_arguments in kept)
        return next(fitting, 0)

    def start(self, spec: RunSpec) -> None:
        """Give a run to an idle worker, one that has its backbone if there is one."""
        idle = [worker for worker in self._workers if worker.spec is None]
        wanted = spec.settings.backbone_arguments
        idle.sort(key=lambda worker: self._kept.get(worker.process.pid or 0) != wanted)
        worker = idle[0] if idle else self._hire()
        worker.spec = spec
        self._kept[worker.process.pid or 0] = wanted
        try:
            worker.line.send(spec)
        except OSError:  # it died while it was idle: `wait` sees that
            return

    def wait(self, seconds: float) -> list[tuple[RunSpec, Outcome]]:
        """Return the runs that have ended, at the latest after some seconds."""
        by_line = {worker.line: worker for worker in self._workers}
        ended = []
        for line in wait(list(by_line), seconds):
            worker = by_line[line]  # type: ignore[index]  # these are the connections that were handed in
            try:
                outcome = worker.line.recv()
            except (EOFError, OSError):
                outcome = self._bury(worker)
            if worker.spec is not None:
                ended.append((worker.spec, outcome))
            worker.spec = None
        return ended

    def close(self) -> None:
        """End the workers: idle ones leave, those at work are killed; their runs go on from their checkpoints another time."""
        for worker in self._workers:
            worker.line.close()
            if worker.spec is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(CLOSING)
            worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def _hire(self) -> _Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.setup, self._started), daemon=True)
        self._started += 1
        process.start()
        theirs.close()
        self._workers.append(_Process(process, ours))
        return self._workers[-1]

    def _bury(self, worker: _Process) -> Outcome:
        worker.process.join()
        worker.line.close()
        self._workers.remove(worker)
        code = worker.process.exitcode or 0
        return Outcome(
            "died", f"the worker process ended by {_signal_name(-code) if code < 0 else f'exit code {code}'}"
        )


def _cpus() -> int:
    return torch.get_num_threads()  # as OMP_NUM_THREADS and the machine allow


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name}{' (memory may have run out)' if name == 'SIGKILL' else ''}"


def _work(line: Connection, setup: Setup, number: int) -> None:
    """Be a worker: make what comes through the line, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver is interrupted, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _take_gpu(number)
    worker = Worker(setup)
    while True:
        try:
            spec = line.recv()
        except EOFError:
            return
        line.send(worker.make(spec))


def _end_with_parent() -> None:
    """Die with the process that started this one, however that ends: a worker that lived on would hold its run's lock."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _take_gpu(number: int) -> None:
    """See one GPU alone where there are several, each worker another one."""
    count = torch.cuda.device_count()
    if count > 1:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[number % count]
