"""A finished run in a line, and as a single number."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any


def measure_of(record: Mapping[str, Any], name: str) -> float | None:
    """Return a measure of a record: a score in percent, or the mean over tasks of the minutes an epoch of learning took."""
    if name == "minutes_per_epoch":
        return statistics.fmean(record["timings"]["learn_seconds"]) / record["settings"]["epochs"] / 60
    return record["metrics"].get(name)


def summarise(record: Mapping[str, Any]) -> str:
    """Return a finished run in one line."""
    values = {name.upper(): value for name, value in record["metrics"].items() if name != "forgetting"}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in values.items() if value is not None)
    seconds = sum(record["timings"]["learn_seconds"]) + sum(map(sum, record["timings"]["evaluate_seconds"]))
    return (
        f"{record['method']}, {record['stream']['name']}, seed {record['settings']['seed']}: {shown} ({seconds:.0f} s)"
    )


def disagreement_text(record: Mapping[str, Any]) -> str:
    """Return how often both ways differed in a run, over all and task by task, in one line; empty if it was not asked."""
    cells = record.get("verified_answers") or []
    if not cells:
        return ""
    of_task: dict[str, list[int]] = {}
    for cell in cells:
        differing, rows = of_task.setdefault(cell["task"], [0, 0])
        of_task[cell["task"]] = [differing + cell["differing"], rows + cell["rows"]]
    differing, rows = (sum(counts) for counts in zip(*of_task.values(), strict=True))
    parts = ", ".join(f"{name} {differing}/{rows}" for name, (differing, rows) in of_task.items())
    return f"generate and labels differ in {differing} of {rows} answers ({100 * differing / rows:.1f}%): {parts}"
