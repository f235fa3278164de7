"""Ray: the runs as tasks of a cluster, in Ray's own worker processes. Needs the extra `clbench[ray]`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from clbench.atomic import write_atomically
from clbench.errors import ClbenchError
from clbench.placing import Placing
from clbench.records.files import RunFiles
from clbench.running.study import StudySpec
from clbench.running.worker import Outcome, Setup, Worker
from clbench.spec import RunSpec

QUEUED = 2.0  # runs handed to Ray for each that fits the cluster, so that a worker finds the next one, and an autoscaler sees it


@dataclass(frozen=True)
class Made:
    """How a run ended on a worker, and its files by their names where the worker does not see the results folder."""

    outcome: Outcome
    files: Mapping[str, bytes]


class RayCluster:
    """A cluster that is there (`address`), or Ray started on this machine.

    A worker that sees the results folder of the command writes into it, and a killed run goes on from its checkpoint on any
    node. One that does not, keeps the run in a temporary folder and sends the finished files through Ray's object store.
    """

    def __init__(self, setup: Setup, placing: Placing) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else Ray writes a token into the home folder
        try:
            import ray
        except ImportError:
            raise ClbenchError("--engine ray needs Ray: pip install 'clbench[ray]'") from None
        self._ray = ray
        self.folder = Path(setup.results).resolve()
        cpus = placing.cpus_per_run or 1.0
        plugins = tuple(str(Path(plugin).resolve()) for plugin in setup.plugins)
        self.setup = replace(setup, results=str(self.folder), plugins=plugins, threads=max(1, int(cpus)))
        try:
            ray.init(address=placing.address, include_dashboard=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClbenchError(f"no Ray cluster at '{placing.address}': {' '.join(str(error).split())}") from None
        self._share = {"CPU": cpus, **({"GPU": placing.gpus_per_run} if placing.gpus_per_run else {})}
        self._check_share()
        self._task = ray.remote(num_cpus=cpus, num_gpus=placing.gpus_per_run or 0, max_retries=0)(make)
        self._runs: dict[Any, RunSpec] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._probe = self.folder / f".{uuid4().hex}.probe"
        self._probe.touch()

    def _check_share(self) -> None:
        found = self._resources()
        for name, wanted in self._share.items():
            if found.get(name, 0) < wanted:
                self.close()
                raise ClbenchError(f"a run needs {wanted:g} {name}, the Ray cluster has {found.get(name, 0):g}")

    def _resources(self) -> Mapping[str, float]:
        found: Mapping[str, float] = self._ray.cluster_resources()
        return found

    @property
    def room(self) -> int:
        """How many runs can be started now."""
        found = self._resources()
        fitting = min(found.get(name, 0) / wanted for name, wanted in self._share.items())
        return max(1, int(fitting * QUEUED)) - len(self._runs)

    def choose(self, waiting: Sequence[RunSpec]) -> int:
        """Return the place of the run to start next: the first; runs on the same backbone stand together."""
        return 0

    def start(self, spec: RunSpec) -> None:
        """Hand a run to Ray."""
        self._runs[self._task.remote(self.setup, spec, self._probe.name)] = spec

    def wait(self, seconds: float) -> list[tuple[RunSpec, Outcome]]:
        """Return the runs that have ended, at the latest after some seconds."""
        if not self._runs:
            return []
        ended, _ = self._ray.wait(list(self._runs), num_returns=len(self._runs), timeout=seconds)
        return [(self._runs.pop(one), self._take(one)) for one in ended]

    def close(self) -> None:
        """Leave the cluster, which ends the tasks that are at work."""
        if hasattr(self, "_probe"):
            self._probe.unlink(missing_ok=True)
        self._ray.shutdown()

    def _take(self, task: Any) -> Outcome:
        try:
            made: Made = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return Outcome("died", f"Ray lost the worker: {str(error).splitlines()[0]}")
        for name, content in made.files.items():
            write_atomically(self.folder / name, partial(Path.write_bytes, data=content))
        return made.outcome


def make(setup: Setup, spec: RunSpec, probe: str) -> Made:
    """Make a run on a worker."""
    if (Path(setup.results) / probe).exists():
        return Made(_worker(setup).make(spec), {})
    if isinstance(spec, StudySpec):
        return Made(Outcome("failed", "error: the trials of a study need a results folder that every worker sees"), {})
    own = Path(tempfile.gettempdir()) / f"clbench-{hashlib.sha256(setup.results.encode()).hexdigest()[:16]}"
    worker = _worker(replace(setup, results=str(own)))
    outcome = worker.make(spec)
    if outcome.state != "done":
        return Made(outcome, {})
    return Made(outcome, read_files(worker.maker.opener.open(spec).files))


@lru_cache(1)
def _worker(setup: Setup) -> Worker:
    """Return the worker that Ray's process is; it lives as long as that."""
    return Worker(setup)


def read_files(files: RunFiles) -> dict[str, bytes]:
    """Return all files of a run by their names within the results folder; the record last, which says that it is done."""
    kept = [files.answers, files.maps, *sorted(files.adapter.rglob("*")), files.record]
    return {str(path.relative_to(files.folder)): path.read_bytes() for path in kept if path.is_file()}
