"""The questions of a run, read again from its data, since the files of a run hold its answers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache

from clbench.data.sources import HUB, Selection, fingerprint_questions, make_tasks, open_source
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from clbench.records.record import Record

NO_DATA = "none"  # instead of a folder: leave the questions out
KEPT = 8  # data sets in memory at once

Questions = Mapping[str, Sequence[str]]  # a task's name -> its questions' texts, in the order of the answers


def read_questions(record: Record, data: str | None = None) -> Questions:
    """Return the questions that a run was asked, empty where they are not to be had.

    That is where the data is not there or needs a network, or is not what the run was made on, by the digest of its questions; a
    record can therefore not make a page show a file that its author has not seen.

    Args:
        data: where the data lies, if not where the record says; 'none' leaves the questions out.
    """
    place = data or record.setting("data")
    if place in (HUB, NO_DATA) or record.digests.questions is None:
        return {}
    chosen = {field.name: record.setting(field.name) for field in fields(Selection) if field.name != "seed"}
    layout, metric = record.setting("layout"), record.setting("superni_metric")
    try:
        digest, found = _read(place, layout, record.stream.name, Selection(**chosen), metric)
    except (ClbenchError, OSError):
        return {}
    return found if digest == record.digests.questions else {}


@lru_cache(KEPT)
def _read(data: str, layout: str, name: str, selection: Selection, metric: str) -> tuple[str, Questions]:
    """Return the questions of a stream's tasks, and their digest."""
    stream = find_stream(data if data.endswith(".toml") else name)
    tasks = make_tasks(open_source(data, layout, stream), stream, selection, metric)
    return fingerprint_questions(tasks), {task.name: [example.passage for example in task.test] for task in tasks}
