"""Pictures of records in Python: a matplotlib figure of any kind that `clbench plot` draws."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.records.collection import Records
from clbench.records.record import Record
from clbench.reports.plots.kinds import check_kind, draw
from clbench.reports.plots.series import series_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(records: Iterable[Record], kind: str, stream: str | None = None, title: str = "") -> Figure:
    """Draw records as `clbench plot` does, and return the matplotlib figure, to be changed, shown or saved.

    Args:
        records: as `load_records` returns them, or any of `run`; maps are found beside loaded ones alone.
        kind: matrix, curves, bars, overall ... (`clbench plot` lists them).
        stream: a stream ('long:1') or a family ('long') to keep.

    Raises:
        ClbenchError: no such kind, matplotlib is not installed, or the records have nothing of the kind to show.
    """
    check_kind(kind)
    folder = records.folder if isinstance(records, Records) else None
    found = {(folder or Path()) / f"{record.name}.json": record for record in records}
    return draw(kind, series_of(found, kind, stream), title)
