"""Many small runs: a shell loop (a process a run) against `clbench sweep` on local workers and on Ray.

    python benchmarks/sweep.py [--runs 24] [--jobs 2] [--engines loop,local,ray] [--output FILE.json]

All make the same runs of seqlora on two toy tasks, on a tiny random T5, with one thread each, into folders of their own; the
scores must be the same. Wall time: other work on the machine counts, so the ratios are worth something on a quiet one alone.

    python benchmarks/sweep.py --empty 10000

What the command itself costs on Ray: so many runs that do nothing, in the workers that real runs have, from the first that is
given out to the last that is back; starting Ray is apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clbench.model.tiny import save_tiny_t5
from clbench.placing import Placing
from clbench.records.files import RunFiles, read_records
from clbench.running.engines.ray import Made, RayCluster
from clbench.running.sweep import Sweep, SweepRun
from clbench.running.worker import Outcome, Setup
from clbench.settings import Settings
from clbench.spec import RunSpec

SETTINGS = {"limit_train": 32, "limit_test": 8, "epochs": 1, "threads": 1, "lora_targets": "q,v", "max_answer": 4}
CLBENCH = [sys.executable, "-c", "from clbench.cli.main import main; main()"]
LOOP, LOCAL, RAY = "loop", "local", "ray"


def main() -> None:
    """Time each way and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--engines", default=f"{LOOP},{LOCAL},{RAY}")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--empty", type=int, help="instead: so many runs that do nothing, on Ray")
    arguments = parser.parse_args()
    if arguments.empty:
        make_empty(arguments.empty)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = save_tiny_t5(folder / "tiny-t5")
        seconds = {way: timed(way, folder, backbone, arguments) for way in arguments.engines.split(",")}
        scores = {way: [record.scores for record in read_records(folder / way)] for way in seconds}
    if any(found != next(iter(scores.values())) for found in scores.values()):
        raise SystemExit("the ways do not give the same scores")
    for way, took in seconds.items():
        ratio = f", {seconds[LOOP] / took:.2f} times as fast as the loop" if LOOP in seconds else ""
        print(f"{way:6} {took:7.1f} s, {took / arguments.runs:.2f} s a run{ratio}")
    if arguments.output is not None:
        arguments.output.write_text(
            json.dumps({"runs": arguments.runs, "jobs": arguments.jobs, "seconds": seconds}) + "\n"
        )


class Silent:
    """Shows nothing of a sweep."""

    def tell(self, run: SweepRun, outcome: Outcome, final: bool) -> None:
        """Say nothing of an attempt that has ended."""

    def look(self, running: Sequence[SweepRun], left: int) -> None:
        """Say nothing of what runs."""


def make_empty(count: int) -> None:
    """Time a sweep of runs that do nothing, on Ray."""
    import ray

    with tempfile.TemporaryDirectory() as name:
        setup, settings = Setup(name), Settings(stream="sst-2")
        specs = [RunSpec("seqlora", {}, replace(settings, seed=seed)) for seed in range(1, count + 1)]
        runs = [SweepRun(spec, RunFiles.of(Path(name), spec, f"{number:08x}")) for number, spec in enumerate(specs)]
        begun = time.perf_counter()
        cluster = RayCluster(setup, Placing("ray"))
        cluster._task = ray.remote(num_cpus=1, max_retries=0)(make_nothing)
        started = time.perf_counter()
        failures = Sweep(setup, cluster, Silent()).make(runs)
    took = time.perf_counter() - started
    print(f"start {started - begun:.1f} s; {count} empty runs {took:.1f} s, {took / count * 1000:.2f} ms a run")
    if failures:
        raise SystemExit(f"{len(failures)} of them failed: {next(iter(failures.values()))}")


def make_nothing(setup: Setup, spec: RunSpec, probe: str) -> Made:
    """Stand in for a run on a worker."""
    return Made(Outcome("done", str(spec)), {})


def timed(way: str, folder: Path, backbone: Path, arguments: argparse.Namespace) -> float:
    """Make all runs one way; return the seconds."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    common = [
        "--method=seqlora",
        "--stream=sst-2,agnews",
        f"--backbone={backbone}",
        f"--results={folder / way}",
        *flags,
    ]
    engine = {LOCAL: ["--jobs", str(arguments.jobs)], RAY: ["--engine", "ray"]}.get(way, [])
    seeds = range(1, arguments.runs + 1)
    commands = (
        [["run", f"--seeds={seed},"] for seed in seeds]
        if way == LOOP
        else [["sweep", "make", *engine, f"--seeds={len(seeds)}"]]
    )
    begun = time.perf_counter()
    for command in commands:
        subprocess.run([*CLBENCH, *command, *common, "-q"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
