"""Make the missing ones of many runs on the engine that was asked for, and show how it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.grid import make_grid, read_grid
from clbench.logs import LogSettings
from clbench.placing import Placing
from clbench.records.collection import Records
from clbench.records.files import read_record
from clbench.running.engines.local import LocalProcesses, ThisProcess
from clbench.running.opening import RunOpener
from clbench.running.sweep import Engine, Sweep, SweepRun, open_runs
from clbench.running.sweep_display import SweepDisplay
from clbench.running.worker import Setup
from clbench.terminal import Terminal
from clbench.units import counted


def make_runs(console: Console, runs: Sequence[SweepRun], setup: Setup, placing: Placing) -> dict[SweepRun, str]:
    """Make the missing ones of some runs; return those that failed, with their last lines.

    Raises:
        ClbenchError: the engine is not installed, or not to be had.
    """
    done = sum(setup.is_done(run.files) for run in runs)
    if done:
        console.print(f"{done} of {counted(len(runs), 'run')} {'is' if done == 1 else 'are'} done already")
    if done == len(runs):
        return {}
    if console.is_terminal:  # the table says it
        setup = replace(setup, logs=replace(setup.logs, on_standard_error=False))
    engine = start_engine(placing, setup, len(runs) - done)
    with SweepDisplay(console, len(runs), done) as display:
        return Sweep(setup, engine, display, placing.retries).make(runs)


def start_engine(placing: Placing, setup: Setup, count: int) -> Engine:
    """Return the engine; `count` runs are to be made at most."""
    if placing.engine == "ray":
        from clbench.running.engines.ray import RayCluster

        return RayCluster(setup, placing)
    if placing.engine == "slurm":
        from clbench.running.engines.slurm import SlurmJobs

        return SlurmJobs(setup, placing)
    jobs = min(placing.jobs, count)
    return ThisProcess(setup) if jobs == 1 else LocalProcesses(setup, jobs)


def sweep(
    grid: str | Path | Mapping[str, Any],
    results: str | Path = "results",
    jobs: int = 1,
    retries: int = 2,
    save_adapter: bool = False,
) -> Records:
    """Make the missing runs of a grid, as `clbench sweep` does on this machine, and return the records of all its runs.

    Args:
        grid: a TOML file, or what it would say: `{"methods": ["lorareplay", "rkif"], "orders": [4, 5], "seeds": 3}`; a list of
            values among `settings` or a method's `options` is an axis.
        results: folder of the records.
        jobs: worker processes; with more than one, a script of yours needs its `if __name__ == "__main__":`.
        retries: how often a failed run is tried again.
        save_adapter: keep what was trained, for `load_learner`.

    Raises:
        ClbenchError: the grid is wrong, or runs failed; the others are made, and the same call tries the failed ones again.
    """
    read = make_grid(grid) if isinstance(grid, Mapping) else read_grid(Path(grid))
    plugins = find_plugins(read.plugins)
    runs = open_runs(read.expand(plugins), RunOpener(plugins, Path(results)))
    logs = LogSettings(on_standard_error=False)
    setup = Setup(str(results), tuple(read.plugins), save_adapter, logs=logs, tracking=read.tracking)
    failures = make_runs(Terminal(stderr=True), runs, setup, Placing(jobs=jobs, retries=retries))
    if failures:
        raise failed(failures, len(runs))
    return Records([read_record(run.files.record) for run in runs], Path(results))


def failed(failures: Mapping[SweepRun, str], count: int) -> ClbenchError:
    """Return the error that says how many of `count` runs failed, and why the first one did."""
    run, text = next(iter(failures.items()))
    why = text.rpartition("\n")[2].removeprefix("error: ")
    return ClbenchError(
        f"{len(failures)} of {counted(count, 'run')} failed; the same command tries them again. The first: {run.spec}: {why}"
    )
