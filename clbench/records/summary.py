"""A finished run in a line, and as a single number."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from clbench.records.record import Record

COSTS = ("steps", "seconds", "replayed")  # of learning all tasks


def measure_of(record: Record, name: str) -> float | None:
    """Return a measure of a record: a score in percent, or what learning all tasks cost: steps, seconds, rows replayed.

    `minutes_per_epoch` is the mean over tasks.
    """
    if name == "minutes_per_epoch":
        epochs: int = record.setting("epochs")
        seconds = record.timings.learn_seconds
        return statistics.fmean(seconds) / epochs / 60 if seconds and epochs else None
    if name in ("probe", "questions"):
        return probe_change(record) if name == "probe" else questions_change(record)
    if name in COSTS:
        return cost_of(record, name)
    measures = record.metrics
    return {"op": measures.op, "bwt": measures.bwt, "fwt": measures.fwt, "forgetting": measures.forgetting}[name]


def cost_of(record: Record, name: str) -> float | None:
    """Return the optimizer steps, the seconds, or the rows replayed of learning all tasks; None where a record does not say."""
    known: dict[str, Sequence[float | None]] = {
        "steps": [report.get("steps") for report in record.learned],
        "seconds": record.timings.learn_seconds,
        "replayed": [cost.replayed_rows for cost in record.costs],
    }
    values = [value for value in known[name] if value is not None]
    return sum(values) if values and len(values) == len(known[name]) else None


def probe_change(record: Record) -> float | None:
    """Return by how much the perplexity of the probes grew, percent: the geometric mean over texts of last / first, less one."""
    ends = [(one.values[0], one.values[-1]) for one in record.probes if one.objective != "answers"]
    ratios = [last / first for first, last in ends if first and last]
    return 100 * (statistics.geometric_mean(ratios) - 1) if ratios and len(ratios) == len(ends) else None


def questions_change(record: Record) -> float | None:
    """Return the mean over the probes with questions of (score at the end - score before the first task)."""
    ends = [(one.values[0], one.values[-1]) for one in record.probes if one.objective == "answers"]
    known = [last - first for first, last in ends if first is not None and last is not None]
    return statistics.fmean(known) if known and len(known) == len(ends) else None


def probes_text(record: Record) -> str:
    """Return what became of the probes, in one line; empty where there were none."""
    parts = []
    for one in record.probes:
        first, last = ("-" if value is None else f"{value:.2f}" for value in (one.values[0], one.values[-1]))
        parts.append(f"{one.name} {first} -> {last}{' %' if one.objective == 'answers' else ''}")
    return f"probes (perplexity, or right answers) before and after: {', '.join(parts)}" if parts else ""


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


def cost_text(record: Record) -> str:
    """Return what learning cost over all tasks, in one line; empty for a record that does not say."""
    costs = record.costs
    if not costs:
        return ""
    forward, backward = sum(cost.forward_batches for cost in costs), sum(cost.backward_batches for cost in costs)
    rows, replayed = sum(cost.rows for cost in costs), sum(cost.replayed_rows for cost in costs)
    kept = max(cost.kept_bytes for cost in costs) / 2**20
    held = [cost.held_bytes / 2**20 for cost in costs if cost.held_bytes is not None]
    own, seconds = sum(cost.own_seconds for cost in costs), sum(record.timings.learn_seconds)
    return (
        f"{forward:,} forward and {backward:,} backward batches, {replayed:,} of {rows:,} rows "
        f"replayed, {kept:.2f} MiB kept between tasks, {f'{max(held):.2f}' if held else '?'} MiB held within one, "
        f"{own:.1f} s ({100 * own / max(seconds, 1e-9):.1f}%) of the method's own arithmetic"
    )


def environment_text(record: Record) -> str:
    """Return how long a run took, how much memory, and where it was made, in one line."""
    learned, evaluated = record.timings.learn_seconds, record.timings.evaluate_seconds
    memory, weights, here = record.peak_memory, record.trainable_weights, record.environment
    return (
        f"learning {sum(learned):.1f} s, evaluating {sum(map(sum, evaluated)):.1f} s, peak memory of the {memory.of} "
        f"{'?' if memory.bytes is None else f'{memory.bytes / 2**20:.0f}'} MiB, "
        f"{'?' if weights is None else f'{weights:,}'} trainable weights, {here.device}, clbench {here.clbench}, "
        f"protocol version {record.protocol_version}, commit {here.git_commit}"
    )
