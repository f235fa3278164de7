"""Pictures of recorded runs: the kinds there are, which runs go into one, and how it is written as PNG, SVG or PDF."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.atomic import make_folder, write_atomically
from clbench.errors import ClbenchError, unknown
from clbench.reports.plots.series import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = ("png", "svg", "pdf")
KINDS = {
    "matrix": "score on each task (column) after each task (row), a heat map a method",
    "curves": "score on each task over time, a panel a task",
    "bars": "score on each task after the last one (Figure 4)",
    "overall": "OP and BWT of each method, by stream and recipe (Figure 3)",
    "fusions": "OP against the number of fusions (Figure 6)",
    "time": "time an epoch by method (Figure 9)",
    "forgetting": "right answers that were lost: what stands in their place, a bar a task, a panel a method (`clbench explain`)",
    "maps": "task vector and importance by layer; an old task's importance before and after a new one (Figure 5)",
    "shift": "importance of the first task by layer, after each task (Figure 7)",
    "stages": "importance of the first task by layer, while the last one is learned (Figure 8)",
}


def has_matplotlib() -> bool:
    """Return whether pictures can be drawn."""
    return find_spec("matplotlib") is not None


def check_kind(kind: str) -> None:
    """Check that there is a picture of this kind.

    Raises:
        ClbenchError: there is none.
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
    from clbench.reports.plots import forgetting
    from clbench.reports.plots import maps as map_plots
    from clbench.reports.plots import scores as score_plots
    from clbench.reports.plots.style import style, wrapped

    drawers: dict[str, Callable[[Sequence[Series]], Figure]] = {
        "matrix": score_plots.matrix,
        "curves": score_plots.curves,
        "bars": score_plots.bars,
        "overall": score_plots.overall,
        "fusions": score_plots.fusions,
        "time": score_plots.time,
        "forgetting": forgetting.forgetting,
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
    """Return the picture format that a file's suffix stands for.

    Raises:
        ClbenchError: the suffix stands for no picture format.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise unknown("picture format", suffix or str(path), SUFFIXES)
    return suffix


def picture(figure: Figure, suffix: str) -> bytes:
    """Return a picture's bytes in a format; the same figure gives the same bytes."""
    from clbench.reports.plots.style import style

    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[suffix]
    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # a name in letters that the font has not is drawn as boxes
        figure.savefig(buffer, format=suffix, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format of the file's suffix, atomically."""
    content = picture(figure, file_format(path))
    make_folder(path.parent)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
