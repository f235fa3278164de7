"""A finished run in a line, and as a single number."""

from __future__ import annotations

import statistics

from clbench.records.record import Record


def measure_of(record: Record, name: str) -> float | None:
    """Return a measure of a record: a score in percent, or the mean over tasks of the minutes an epoch of learning took."""
    if name == "minutes_per_epoch":
        epochs: int = record.setting("epochs")
        seconds = record.timings.learn_seconds
        return statistics.fmean(seconds) / epochs / 60 if seconds and epochs else None
    return {"op": record.metrics.op, "bwt": record.metrics.bwt, "forgetting": record.metrics.forgetting}[name]


def summarise(record: Record) -> str:
    """Return a finished run in one line."""
    values = {"OP": record.metrics.op, "BWT": record.metrics.bwt}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in values.items() if value is not None)
    seconds = sum(record.timings.learn_seconds) + sum(map(sum, record.timings.evaluate_seconds))
    marks = "".join(f", {mark}" for mark in record.marks)
    return f"{record.method.name}, {record.stream.name}, seed {record.seed}: {shown}{marks} ({seconds:.0f} s)"


def disagreement_text(record: Record) -> str:
    """Return how often both ways differed in a run, over all and task by task, in one line; empty if it was not asked."""
    if not record.verified_answers:
        return ""
    of_task: dict[str, list[int]] = {}
    for cell in record.verified_answers:
        differing, rows = of_task.setdefault(cell.task, [0, 0])
        of_task[cell.task] = [differing + cell.differing, rows + cell.rows]
    differing, rows = (sum(counts) for counts in zip(*of_task.values(), strict=True))
    parts = ", ".join(f"{name} {differing}/{rows}" for name, (differing, rows) in of_task.items())
    return f"generate and labels differ in {differing} of {rows} answers ({100 * differing / rows:.1f}%): {parts}"
