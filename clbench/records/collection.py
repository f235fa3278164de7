"""The records of a results folder as one value: chosen by what they are of, and as rows of runs, cells or answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.data.answer_scores import METRICS
from clbench.errors import ClbenchError, unknown
from clbench.records.answers import read_answers, row_scores
from clbench.records.files import RunFiles, filled_paths, readable_records
from clbench.records.record import Record
from clbench.units import counted

if TYPE_CHECKING:
    import pandas

Rows = list[dict[str, Any]]
PROBED = {"before": 0, "after": -1}  # the columns of a probe's first and last value
SHOWN = ["name", "method", "stream", "seed", "op", "bwt", "forgetting"]


class Records:
    """Finished runs, in order: iterate them, take one by its number, `filter` them, turn them into a data frame.

    Args:
        records: the runs, as `run` returned them or `load_records` read them.
        folder: where their answers lie; only the rows of answers need it.
    """

    def __init__(self, records: Iterable[Record], folder: Path | None = None) -> None:
        self._records = tuple(records)
        self.folder = folder

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Record:
        return self._records[number]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Records) and self._records == other._records

    def __repr__(self) -> str:
        return f"Records of {counted(len(self), 'run')}" + (f" in '{self.folder}'" if self.folder else "")

    def _repr_html_(self) -> str:
        frame = self.to_pandas()
        return str(frame.reindex(columns=SHOWN).to_html(na_rep="-", float_format="{:.1f}".format))

    def filter(self, keep: Callable[[Record], bool] | None = None, /, **values: Any) -> Records:
        """Return the records that a function keeps, and that have all these values in the columns of `rows("runs")`.

        `filter(method="rkif", epochs=1)`; an option of a method by `filter(**{"option.strength": 0.1})`.

        Raises:
            ClbenchError: no record has a column of such a name.
        """
        rows = self.rows("runs")
        known = dict.fromkeys(name for row in rows for name in row)
        for name in values if rows else ():
            if name not in known:
                alike = [one for one in known if one.startswith("option.") == name.startswith("option.")]
                raise unknown("column of the runs:", name, alike)
        kept = [
            record
            for record, row in zip(self, rows, strict=True)
            if all(name in row and row[name] == value for name, value in values.items()) and (not keep or keep(record))
        ]
        return Records(kept, self.folder)

    def rows(self, kind: Literal["runs", "cells", "answers"] = "runs") -> Rows:
        """Return plain rows, one a run, an evaluated cell of the score matrix, or an answer.

        Scores are percent, times seconds, memory bytes; tasks are numbered from 0. A run's row has a column for each setting by
        its name, for each option as `option.NAME`, and two for each probe (`probe.NAME.before`, `probe.NAME.after`). The row of a
        cell is the score on `task` after learning `after_task`, with those by the task's further metrics as `score.NAME`; that of
        an answer has the question's `id`, the answers that count as right (`accepted`) and its `score`.

        Raises:
            ClbenchError: no such kind, or the answers are not there.
        """
        makers: dict[str, Callable[[Record], Rows]] = {
            "runs": run_rows,
            "cells": cell_rows,
            "answers": self._answer_rows,
        }
        if kind not in makers:
            raise unknown("kind of rows:", kind, makers)
        return [row for record in self for row in makers[kind](record)]

    def to_pandas(self, kind: Literal["runs", "cells", "answers"] = "runs") -> pandas.DataFrame:
        """Return `rows(kind)` as a data frame.

        Raises:
            ClbenchError: as `rows`.
        """
        import pandas  # here: slow to import

        return pandas.DataFrame(self.rows(kind))

    def _answer_rows(self, record: Record) -> Rows:
        if self.folder is None:
            raise ClbenchError(
                "these records do not know where their answers lie; use load_records(FOLDER) or Records(records, FOLDER)"
            )
        rows = []
        for (after, number), answers in read_answers(record, RunFiles(self.folder, record.name).answers).items():
            metric = record.tasks[number].metric
            scores = row_scores(answers, metric) if metric in METRICS else [answer.score for answer in answers]
            for row, (answer, score) in enumerate(zip(answers, scores, strict=True)):
                said = {"row": row, "id": answer.id, "answer": answer.text, "accepted": answer.accepted, "score": score}
                rows.append({**cell_of(record, after, number), **said})
        return rows


def run_rows(record: Record) -> Rows:
    """Return the one row of a run."""
    row = {
        **key_of(record),
        "family": record.stream.family,
        "order": record.stream.order,
        "tasks": len(record.tasks),
        "op": record.metrics.op,
        "bwt": record.metrics.bwt,
        "forgetting": record.metrics.forgetting,
        "fwt": record.metrics.fwt,
        **{f"probe.{one.name}.{when}": one.values[place] for one in record.probes for when, place in PROBED.items()},
        "learn_seconds": sum(record.timings.learn_seconds),
        "evaluate_seconds": sum(map(sum, record.timings.evaluate_seconds)),
        "peak_memory_bytes": record.peak_memory.bytes,
        "trainable_weights": record.trainable_weights,
        "upper_bound": record.method.about.upper_bound,
        "protocol_version": record.protocol_version,
        "finished": record.finished,
    }
    return [{**row, **record.all_settings, **{f"option.{name}": v for name, v in record.method.options.items()}}]


def cell_rows(record: Record) -> Rows:
    """Return one row a cell of a run's score matrix that was evaluated."""
    return [
        {
            **cell_of(record, after, number),
            "score": score,
            **{
                f"score.{metric}": record.further_scores[metric][after][number]
                for metric in record.tasks[number].further_metrics
            },
        }
        for after, scores in enumerate(record.scores)
        for number, score in enumerate(scores)
        if score is not None
    ]


def key_of(record: Record) -> dict[str, Any]:
    """Return what names a run in every row."""
    return {
        "name": record.name,
        "method": record.method.name,
        "stream": record.stream.name,
        "seed": record.seed,
    }


def cell_of(record: Record, after: int, number: int) -> dict[str, Any]:
    """Return what names a cell: the task learned last, and the task asked."""
    names = [task.name for task in record.tasks]
    where = {"after": after, "after_task": names[after], "number": number, "task": names[number]}
    return {**key_of(record), **where}


def load_records(folder: str | Path = "results") -> Records:
    """Read every record of a results folder (not of its subfolders), in the order of the file names.

    Raises:
        ClbenchError: no such folder, or no record in it; the message names the subfolders that have some.
    """
    return Records(readable_records(filled_paths(Path(folder))).values(), Path(folder))
