"""Our rows beside published ones: which number belongs to which row, and what differs between the two protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clbench.errors import unknown
from clbench.options import options_text
from clbench.records.files import slug
from clbench.records.record import Record
from clbench.reports.leaderboard import STREAM_TITLES, Row, format_score, learning_rate
from clbench.reports.published import Published
from clbench.reports.tables import Sheet

DEFAULT_SOURCE = "rkif"
ALL_SOURCES = "all"


def find_published(row: Row, ledger: Sequence[Published], source: str = DEFAULT_SOURCE) -> list[Published]:
    """Return the published rows that come nearest to one of ours: at most one a source.

    The method and the stream (its order, or its family) must be the same, and where the published row names options or settings,
    ours must have them. Nearest: the most options in common, then the same order, then the same backbone.

    Raises:
        ClbenchError: no such source.
    """
    sources = _sources(ledger, source)
    record, streams = row.records[0], {one.stream.name for one in row.records}
    values = {**record.settings, **record.method.options}

    def fits(entry: Published) -> bool:
        asked = {**entry.options, **entry.settings}
        same = entry.stream == row.stream or streams == {entry.stream}
        return entry.method == row.method and entry.op is not None and same and asked.items() <= values.items()

    def nearness(entry: Published) -> tuple[int, bool, bool]:
        shared = len(entry.options) + len(entry.settings)
        return shared, streams == {entry.stream}, slug(record.setting("backbone")) == entry.backbone

    found = []
    for name in sources:
        entries = [entry for entry in ledger if entry.source.name == name and fits(entry)]
        if entries:
            found.append(max(entries, key=nearness))  # of equals the first in the file
    return found


def _sources(ledger: Sequence[Published], source: str) -> list[str]:
    """Return the sources that one name stands for: itself, or all.

    Raises:
        ClbenchError: no such source.
    """
    known = list(dict.fromkeys(entry.source.name for entry in ledger))
    if source not in (*known, ALL_SOURCES):
        raise unknown("source of published numbers", source, [*known, ALL_SOURCES])
    return known if source == ALL_SOURCES else [source]


def is_comparable(row: Row, entry: Published) -> bool:
    """Return whether backbone and size of the data agree, without which a difference says nothing about a method."""
    return not _backbone_and_data(row.records[0], entry)


def differences(row: Row, entry: Published) -> list[str]:
    """Return in few words what differs between our runs and the published ones; empty: nothing that is stated."""
    record = row.records[0]
    found = _backbone_and_data(record, entry) + _recipe(record, entry) + _extent(row, entry)
    changed = {name: value for name, value in record.method.changed_options.items() if entry.options.get(name) != value}
    if changed:
        found.append(f"ours with {options_text(changed)}")
    if entry.copied:
        found.append("copied there from another paper")
    if entry.second_hand:
        found.append("known at second hand")
    return found + ([f"theirs: {entry.note}"] if entry.note else [])


def _backbone_and_data(record: Record, entry: Published) -> list[str]:
    setting, protocol = record.setting, entry.protocol
    found = []
    if slug(setting("backbone")) != entry.backbone:
        found.append(f"{slug(setting('backbone'))}, not {entry.backbone}")
    most = max(task.train or 0 for task in record.tasks)
    if setting("data") == "toy":
        found.append("toy data")
    elif protocol.train_rows is None:
        found.append("their data size not stated")
    elif protocol.train_rows_per == "class" and setting("train_per_class") != protocol.train_rows:
        found.append(f"{most} training rows a task, not {protocol.train_rows} a class")
    elif protocol.train_rows_per == "task" and most != protocol.train_rows:
        found.append(f"{most}, not {protocol.train_rows} training rows a task")
    if setting("limit_test") is not None and setting("data") != "toy":
        found.append(f"{setting('limit_test')} test rows a task" + (f", not {protocol.test}" if protocol.test else ""))
    return found


def _recipe(record: Record, entry: Published) -> list[str]:
    setting, protocol = record.setting, entry.protocol
    if protocol == type(protocol)(protocol.name, protocol.title):
        return ["their recipe not stated"]
    targets = record.lora_targets or setting("lora_targets")  # the setting may be 'auto'
    compared = [
        (setting("epochs"), protocol.epochs, "{}, not {} epochs"),
        (learning_rate(record), protocol.learning_rate, "lr {:g}, not {:g}"),
        (setting("batch_size"), protocol.batch_size, "batch {}, not {}"),
        (setting("max_input"), protocol.max_input, "input {}, not {} tokens"),
        (setting("lora_rank"), protocol.lora_rank, "rank {}, not {}"),
        (targets, entry.settings.get("lora_targets", protocol.lora_targets), "LoRA on {}, not {}"),
    ]
    found = [text.format(ours, theirs) for ours, theirs, text in compared if theirs is not None and ours != theirs]
    if setting("evaluate_on") == "validation":
        found.append("scored on validation rows")
    if setting("answers") == "labels":
        found.append("answers chosen among the labels")
    if protocol.selection:
        found.append(f"no dev; theirs: {protocol.selection}")
    ours = record.environment.precision
    if protocol.precision and ours is not None and ours != protocol.precision:
        found.append(f"{ours}; theirs: {protocol.precision.removeprefix(ours).lstrip(', ')}")
    return found


def _extent(row: Row, entry: Published) -> list[str]:
    streams = sorted({record.stream.name for record in row.records})
    found = []
    if entry.stream == row.stream and ":" in streams[0]:
        orders = ", ".join(sorted({str(r.stream.order or r.stream.name) for r in row.records}))
        if len(streams) == 1 or (row.stream != "superni" and len(streams) < 3):
            found.append(f"order {orders} alone, not the mean of all")
    if entry.runs is not None and row.runs < entry.runs:
        found.append(f"{row.runs} run{'s' * (row.runs > 1)}, not {entry.runs}")
    return found


def compare_rows(
    rows: Sequence[Row], ledger: Sequence[Published], source: str = DEFAULT_SOURCE
) -> list[dict[str, Any]]:
    """Return one mapping a pair of our row and a published one (none where nothing was published), as plain values."""
    compared = []
    for row in rows:
        ours = {
            "method": row.method, "options": row.options, "stream": row.stream, "op": row.op, "op_std": row.op_std,
            "bwt": row.bwt, "bwt_std": row.bwt_std, "runs": row.runs, "recipe": row.recipe,
        }  # fmt: skip
        found = find_published(row, ledger, source)
        if not found:
            names = ("published_op", "op_difference", "published_bwt", "bwt_difference", "source", "table")
            others = sorted({entry.source.name for entry in find_published(row, ledger, "all")})
            why = (
                f"none by {source}; see --source {' or '.join(others)}"
                if others
                else "no published number in the ledger"
            )
            nothing = {**dict.fromkeys(names), "comparable": False, "differs": why}
            compared.append({**ours, **nothing})
        for entry in found:
            compared.append(
                {
                    **ours,
                    "published_op": entry.op,
                    "op_difference": _minus(row.op, entry.op),
                    "published_bwt": entry.bwt,
                    "bwt_difference": _minus(row.bwt, entry.bwt),
                    "source": entry.source.name,
                    "table": entry.table,
                    "comparable": is_comparable(row, entry),
                    "differs": "; ".join(differences(row, entry)) or "nothing that is stated",
                }
            )
    return compared


def published_rows(
    ledger: Sequence[Published], source: str = DEFAULT_SOURCE, stream: str | None = None
) -> list[dict[str, Any]]:
    """Return the published rows alone, in the form of `compare_rows`, ours blank.

    Args:
        stream: a stream ('long:1') or a family ('long') to keep.
    """
    sources, ours = _sources(ledger, source), dict.fromkeys(("op", "op_std", "bwt", "bwt_std", "recipe"))
    return [
        {
            "method": entry.label, "options": options_text(entry.options), "stream": entry.stream, **ours, "runs": 0,
            "published_op": entry.op, "op_difference": None, "published_bwt": entry.bwt, "bwt_difference": None,
            "source": entry.source.name, "table": entry.table, "comparable": True,
            "differs": "; ".join(filter(None, (entry.about, entry.note))),
        }
        for entry in ledger
        if entry.source.name in sources and entry.op is not None and stream in (None, entry.stream, entry.stream.split(":")[0])
    ]  # fmt: skip


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def compare_sheet(compared: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return the comparison as a table for people."""
    lines = []
    for one in compared:
        line = [f"{one['method']} ({one['options']})" if one["options"] else one["method"]]
        line.append(STREAM_TITLES.get(one["stream"], one["stream"]))
        for name in ("op", "bwt"):
            line.append(format_score(one[name], one[f"{name}_std"]))
            line.append(format_score(one[f"published_{name}"], None))
            line.append(_difference(one[f"{name}_difference"], one["comparable"]))
        where = f"{one['source']}, {one['table']}" if one["source"] else "-"
        lines.append([*line, where, f"{one['differs']}"])
    header = ["Method", "Stream", "OP", "published", "Δ OP", "BWT", "published", "Δ BWT", "Where", "What differs"]
    notes = []
    if any(not one["comparable"] and one["source"] for one in compared):
        notes.append(
            "A difference in parentheses is between runs of another backbone or data size: it says nothing about the method."
        )
    return Sheet("Ours and published", header, lines, left=(0, 1, 8, 9), notes=notes)


def _difference(value: float | None, comparable: bool) -> str:
    if value is None:
        return "-"
    return f"{value:+.1f}" if comparable else f"({value:+.1f})"
