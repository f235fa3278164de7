"""What a benchmark leaves behind: medians of alternating measurements, the device's name, one JSON file."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clbench.atomic import make_folder, write_atomically

FOLDER = Path(os.environ.get("OUT") or Path(__file__).parents[1] / "results" / "benchmarks")


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor and how many threads PyTorch takes of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    threads = torch.get_num_threads()
    return f"{found[1].strip() if found else platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def in_turns(actions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each action measured in each round; one round to warm up goes before, every second one backwards."""
    for name, action in actions.items():
        print(f"warm-up, {name}: {action():.4g} s", flush=True)
    measured: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        for name in list(actions)[:: -1 if number % 2 else 1]:
            measured[name].append(actions[name]())
            print(f"round {number + 1}, {name}: {measured[name][-1]:.4g} s", flush=True)  # in case that time runs out
    return measured


def median_ratio(measured: Mapping[str, list[float]], above: str, below: str) -> float:
    """Return the median over rounds of the ratio of two actions of the same round."""
    return statistics.median(a / b for a, b in zip(measured[above], measured[below], strict=True))


def named(benchmark: str, *details: str) -> str:
    """Return the name of a measurement: the benchmark's, with the details that are not the usual ones.

    Args:
        details: the backbone, the kind of compilation, the data, the tasks.
    """
    parts = [benchmark, *(Path(detail).name for detail in details if detail not in ("mini", "none", "toy", ""))]
    return re.sub(r"[^A-Za-z0-9_]+", "-", "_".join(parts)).strip("-")


def write_outcome(name: str, device: torch.device, content: Mapping[str, Any]) -> Path:
    """Write `NAME_DEVICE.json` into `results/benchmarks`, or into the folder of the variable OUT, in one step.

    Args:
        name: of the benchmark and, but for the embedded one, its backbone.
    """
    shown = device_name(device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    whole = {
        "benchmark": name,
        "device": shown,
        "load": load,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {package: version(package) for package in ("torch", "transformers", "peft")},
        **content,
    }
    path = FOLDER / f"{name}_{re.sub(r'[^A-Za-z0-9]+', '-', shown).strip('-').lower()}.json"
    text = json.dumps(whole, indent=1) + "\n"
    make_folder(path.parent)
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
    return path
