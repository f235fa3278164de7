"""Many small runs: a shell loop (a process a run) against `clbench sweep` on local workers and on Ray.

    python benchmarks/sweep.py [--runs 24] [--jobs 2] [--engines loop,local,ray] [--output FILE.json]

All make the same runs of seqlora on two toy tasks, on a tiny random T5, with one thread each, into folders of their own; the
scores must be the same. Wall time: other work on the machine counts, so the ratios are worth something on a quiet one alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clbench.model.tiny import save_tiny_t5
from clbench.records.files import read_records

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
    arguments = parser.parse_args()
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
