"""SLURM, through submitit: each run an element of a job array. Needs the extra `clbench[slurm]` and a shared results folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError, one_line
from clbench.placing import Placing
from clbench.running.worker import Outcome, Setup, Worker
from clbench.spec import RunSpec

SHARED = (
    "timeout_min",
    "mem_gb",
    "cpus_per_task",
    "gpus_per_node",
    "name",
    "stderr_to_stdout",
)  # the others are SLURM's own
MOST = 1000  # runs that are handed over at a time, the usual limit of an array


class SlurmJobs:
    """Runs as jobs; `--slurm cluster=local` starts them as processes of this machine, `cluster=debug` within this one."""

    def __init__(self, setup: Setup, placing: Placing) -> None:
        try:
            import submitit
        except ImportError:
            raise ClbenchError("--engine slurm needs submitit: pip install 'clbench[slurm]'") from None
        folder = Path(setup.results).resolve()
        cpus, gpus = math.ceil(placing.cpus_per_run or 1), math.ceil(placing.gpus_per_run or 0)
        plugins = tuple(str(Path(plugin).resolve()) for plugin in setup.plugins)
        self.setup = replace(setup, results=str(folder), plugins=plugins, threads=cpus)
        given = dict(placing.slurm)
        cluster = given.pop("cluster", "slurm")
        self._is_debug = cluster == "debug"
        try:
            self._executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
            needs = {"name": "clbench", "cpus_per_task": cpus, **({"gpus_per_node": gpus} if gpus else {})}
            self._executor.update_parameters(**needs, **_parameters(given))
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
            raise ClbenchError(f"--engine slurm: {one_line(error)}") from None
        self._collected: list[RunSpec] = []
        self._jobs: list[tuple[RunSpec, Any]] = []

    @property
    def room(self) -> int:
        """How many runs can be started now."""
        return MOST - len(self._jobs) - len(self._collected)

    def choose(self, waiting: Sequence[RunSpec]) -> int:
        """Return the place of the run to start next: the first."""
        return 0

    def start(self, spec: RunSpec) -> None:
        """Take a run; `wait` submits all that were taken as one array."""
        self._collected.append(spec)

    def wait(self, seconds: float) -> list[tuple[RunSpec, Outcome]]:
        """Return the runs that have ended, after some seconds."""
        if self._collected:
            with self._executor.batch():
                jobs = [self._executor.submit(make, self.setup, spec) for spec in self._collected]
            self._jobs += zip(self._collected, jobs, strict=True)
            self._collected = []
        if self._is_debug:
            for _, job in self._jobs:
                job.exception()  # which makes the run; `_outcome` tells how it ended
        else:
            time.sleep(seconds)
        ended = [(spec, job) for spec, job in self._jobs if job.done()]
        self._jobs = [pair for pair in self._jobs if pair not in ended]
        return [(spec, _outcome(job)) for spec, job in ended]

    def close(self) -> None:
        """Take back the jobs that have not ended."""
        for _, job in self._jobs:
            job.cancel()


def make(setup: Setup, spec: RunSpec) -> Outcome:
    """Make a run in its job."""
    return Worker(setup).make(spec)


def _outcome(job: Any) -> Outcome:
    try:
        made: Outcome = job.result()
    except Exception as error:  # a job that was killed, timed out, or could not begin
        return Outcome("died", f"job {job.job_id}: {one_line(error)}; its output: {job.paths.stderr}")
    return made


def _parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters of submitit; numbers as such."""
    values = {name: int(value) if value.isdigit() else value for name, value in given.items()}
    return {name if name in SHARED or name.startswith("slurm_") else f"slurm_{name}": v for name, v in values.items()}
