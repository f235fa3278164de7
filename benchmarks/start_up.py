"""Starting up: one process for all tasks of a stream against one process per task, as the reference code has it.

    python benchmarks/start_up.py [--backbone mini | --shape t5-large [--reduced]] [--stream long:1] [--rounds 3]

Every process is started anew, imports what a run needs, loads the backbone from disk and tokenises its tasks; both ways in
turns. `--shape` saves a randomly initialised model once, for the processes to load. Files are in the system's cache for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from outcome import device_name, in_turns, median_ratio, named, write_outcome
from shapes import add_backbone_arguments, backbone_settings, random_backbone

from clbench.data.streams import find_stream
from clbench.model.backbone import choose_device, choose_dtype
from clbench.settings import resolve_settings

STAGES = ("process and imports", "backbone", "tokens")
CHILD = """
import json, sys, time
begun, name, device, precision, threads, data, stream = float(sys.argv[1]), *sys.argv[2:]
import torch, transformers, peft
from clbench.running.run import execute_run
from clbench.model.backbone import load_backbone
from clbench.settings import resolve_settings
from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
times = [time.time()]
given = {"backbone": name, "device": device, "precision": precision, "data": data}
settings = resolve_settings(given | ({"threads": threads} if threads else {}))
backbone = load_backbone(name, settings.device, settings.precision, settings.threads)
times.append(time.time())
encoder = backbone.encoder(settings.max_input, settings.max_target or settings.max_answer)
for task in load_tasks(data, find_stream(stream)):
    encoder.encode(task.train + task.test)
times.append(time.time())
print(json.dumps([end - begin for begin, end in zip([begun, *times], times)]))
"""


def start(words: Sequence[str]) -> list[float]:
    """Return the seconds of the stages of one process."""
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(time.time()), *words],
        env={**os.environ, "CLBENCH_CACHE": "none", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_backbone_arguments(parser)
    parser.add_argument("--data", default="toy")
    parser.add_argument("--stream", default="long:1")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    tasks, device = find_stream(arguments.stream).tasks, choose_device(arguments.device)
    stages: dict[str, list[list[float]]] = {"one": [], "each": []}
    with tempfile.TemporaryDirectory() as folder:
        name, shown = arguments.backbone, arguments.backbone
        if arguments.shape:
            made = random_backbone(arguments.shape, "cpu", choose_dtype(arguments.precision, device), arguments.reduced)
            made.model.save_pretrained(folder)
            made.tokenizer.save_pretrained(folder)
            name, shown = folder, made.name
            del made
        words = [name, str(device), arguments.precision, arguments.threads or "", arguments.data]

        def once() -> float:
            stages["one"].append(start([*words, arguments.stream]))
            return sum(stages["one"][-1])

        def for_each() -> float:
            several = [start([*words, task]) for task in tasks]
            stages["each"].append([sum(of_stage) for of_stage in zip(*several, strict=True)])
            return sum(stages["each"][-1])

        measured = in_turns({"one": once, "each": for_each}, arguments.rounds)
    settings = resolve_settings(backbone_settings(arguments))
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    ratio = median_ratio(measured, "each", "one")
    print(
        f"{shown} on {device_name(device)}, {len(tasks)} tasks of {arguments.stream}, {arguments.rounds} rounds in turns"
    )
    medians = {}
    for way, title in (("one", "one process"), ("each", f"{len(tasks)} processes")):
        of_stage = zip(*stages[way][1:], strict=True)  # less the round to warm up
        medians[way] = dict(zip(STAGES, map(statistics.median, of_stage), strict=True))
        parts = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in medians[way].items())
        print(f"{title:14} {statistics.median(measured[way]):8.2f} s: {parts}")
    print(f"one process per task / one process: {ratio:.2f}")
    content = {"backbone": shown, "stream": arguments.stream, "tasks": len(tasks), "seconds": measured}
    path = write_outcome(
        named("start_up", shown), device, {**content, "stages": medians, "ratios": {"each / one": ratio}}
    )
    print(f"-> {Path(path)}")


if __name__ == "__main__":
    main()
