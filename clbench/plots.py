"""Pictures of recorded runs: the kinds there are, which runs go into one, and how it is written as PNG, SVG or PDF."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ClbenchError, unknown
from .leaderboard import STREAM_TITLES, Row, make_rows
from .store import RunFiles, write_atomically
from .suite_files import DRAWS_MAPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
SUFFIXES = ("png", "svg", "pdf")
KINDS = {
    "matrix": "score on each task (column) after each task (row), a heat map a method",
    "curves": "score on each task over time, a panel a task",
    "bars": "score on each task after the last one (Figure 4)",
    "overall": "OP and BWT of each method, by stream and recipe (Figure 3)",
    "fusions": "OP against the number of fusions (Figure 6)",
    "time": "time an epoch by method (Figure 9)",
    "maps": "task vector and importance by layer; an old task's importance before and after a new one (Figure 5)",
    "shift": "importance of the first task by layer, after each task (Figure 7)",
    "stages": "importance of the first task by layer, while the last one is learned (Figure 8)",
}


@dataclass(frozen=True)
class Series:
    """What one bar, line or panel shows: runs of one method that are averaged.

    Attributes:
        label: the method, as the legend names it.
        records: the runs.
        group: what else the series differ in: stream, recipe, backbone.
        maps: the maps files of the runs, for the kinds that draw them.
    """

    label: str
    records: Sequence[Record]
    group: str = ""
    maps: Sequence[Path] = ()


def series_of(found: Mapping[Path, Record], kind: str, stream: str | None = None) -> list[Series]:
    """Return the leaderboard's rows as series, the best OP first.

    Args:
        found: the records, by the paths of their files.
        kind: for the kinds that draw maps, runs without maps are left out.
        stream: a stream or a family to keep.

    Raises:
        ClbenchError: nothing is left.
    """
    maps = {record["name"]: RunFiles(path.parent, record["name"]).maps for path, record in found.items()}
    kept = [one for one in found.values() if kind not in DRAWS_MAPS or maps[one["name"]].exists()]
    rows = make_rows(kept, stream)
    if not rows:
        of_stream = f" of stream '{stream}'" if stream else ""
        raise ClbenchError(
            f"no run{of_stream} has maps; a run makes them with --log-maps"
            if len(kept) < len(found)
            else f"there are no records{of_stream}"
        )
    recipes, families = {row.recipe for row in rows}, {row.stream for row in rows}

    def group(row: Row) -> str:
        title = STREAM_TITLES.get(row.stream, row.stream)
        return ", ".join([title] * (len(families) > 1) + [row.recipe] * (len(recipes) > 1)) or title

    return [Series(row.label, row.records, group(row), [maps[one["name"]] for one in row.records]) for row in rows]


def has_matplotlib() -> bool:
    """Return whether pictures can be drawn."""
    return find_spec("matplotlib") is not None


def check_kind(kind: str) -> None:
    """Refuse what is no kind of picture.

    Raises:
        ClbenchError: it is none.
    """
    if kind not in KINDS:
        raise unknown("kind of plot", kind, KINDS)


def draw(kind: str, series: Sequence[Series], title: str = "") -> Figure:
    """Return a picture.

    Raises:
        ClbenchError: no such kind, matplotlib is not installed, or the runs have nothing of the kind to show.
    """
    check_kind(kind)
    if not has_matplotlib():
        raise ClbenchError("plots need matplotlib: pip install matplotlib")
    from . import map_plots, score_plots
    from .plot_style import style, wrapped

    drawers: dict[str, Callable[[Sequence[Series]], Figure]] = {
        "matrix": score_plots.matrix,
        "curves": score_plots.curves,
        "bars": score_plots.bars,
        "overall": score_plots.overall,
        "fusions": score_plots.fusions,
        "time": score_plots.time,
        "maps": map_plots.maps,
        "shift": map_plots.shift,
        "stages": map_plots.stages,
    }
    with style():
        figure = drawers[kind](series)
        if title:
            figure.suptitle(wrapped(title, 0.8 * figure.get_figwidth()), fontsize="large")
    return figure


def file_format(path: Path) -> str:
    """Return the format that a file's suffix names.

    Raises:
        ClbenchError: it names none.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise unknown("picture format", suffix or str(path), SUFFIXES)
    return suffix


def picture(figure: Figure, suffix: str) -> bytes:
    """Return a picture's bytes in a format; the same figure gives the same bytes."""
    from .plot_style import style

    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[suffix]
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=suffix, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format of the file's suffix, atomically."""
    content = picture(figure, file_format(path))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
