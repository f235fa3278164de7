"""Make the missing ones of many runs on the engine that was asked for, and show how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from clbench.placing import Placing
from clbench.running.engines.local import LocalProcesses, ThisProcess
from clbench.running.sweep import Engine, Sweep, SweepRun
from clbench.running.sweep_display import SweepDisplay
from clbench.running.worker import Setup


def make_runs(console: Console, runs: Sequence[SweepRun], setup: Setup, placing: Placing) -> dict[SweepRun, str]:
    """Make the missing ones of some runs; return those that failed, with their last lines.

    Raises:
        ClbenchError: the engine is not installed, or not to be had.
    """
    done = sum(setup.is_done(run.files) for run in runs)
    if done:
        console.print(f"{done} of {len(runs)} runs are done already", highlight=False)
    if done == len(runs):
        return {}
    if console.is_terminal:  # the table says it
        setup = replace(setup, logs=replace(setup.logs, on_standard_error=False))
    engine = start_engine(placing, setup, len(runs) - done)
    with SweepDisplay(console, len(runs), done) as display:
        return Sweep(setup, engine, display, placing.retries).make(runs)


def start_engine(placing: Placing, setup: Setup, count: int) -> Engine:
    """Return the engine; `count` runs are to be made at most."""
    jobs = min(placing.jobs, count)
    return ThisProcess(setup) if jobs == 1 else LocalProcesses(setup, jobs)
