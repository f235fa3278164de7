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
from clbench.reports.plots.series import Series, subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = ("png", "svg", "pdf")
KINDS = {  # a title and, after the colon, what stands where
    "matrix": "score on each task after each task: a table a method, the tasks scored in columns",
    "curves": "score on each task over time: a panel a task, a line a method",
    "bars": "score on each task after the last one: a panel a task, a bar a method (Figure 4)",
    "overall": "OP and BWT of each method: two panels a stream and recipe (Figure 3)",
    "tradeoff": "score on a task once it is learned against BWT: a point a method with its options, a colour a recipe",
    "fusions": "OP against the number of fusions: a point a method with its options (Figure 6)",
    "time": "time an epoch: a bar a method (Figure 9)",
    "forgetting": "right answers that were lost: what stands in their place, a bar a task, a panel a method (`clbench explain`)",
    "probe": "what was lost beside the tasks: perplexity of each probe over time, a line a method (`clbench run --probe`)",
    "maps": "task vector and importance by layer: also an old task's importance before and after a new one (Figure 5)",
    "shift": "importance of the first task after each task: by layer and module (Figure 7)",
    "stages": "importance of the first task while the last one is learned: by layer and module (Figure 8)",
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
    """Return a picture with a title and a line that says of what runs it is.

    Args:
        title: instead of the kind's own.

    Raises:
        ClbenchError: no such kind, matplotlib is not installed, or the runs have nothing of the kind to show.
    """
    figure = draw_untitled(kind, series)
    from clbench.reports.plots.style import put_title, style

    with style():
        put_title(figure, title or title_of(kind), subject(series))
    return figure


def draw_untitled(kind: str, series: Sequence[Series]) -> Figure:
    """Return a picture alone, for a page that says beside it what it shows.

    Raises:
        ClbenchError: as `draw`.
    """
    check_kind(kind)
    if not has_matplotlib():
        raise ClbenchError("plots need matplotlib: pip install matplotlib")
    from clbench.reports.plots import bars, forgetting, maps, probe, scores
    from clbench.reports.plots.style import style

    drawers: dict[str, Callable[[Sequence[Series]], Figure]] = {
        "matrix": scores.matrix,
        "curves": scores.curves,
        "bars": bars.bars,
        "overall": bars.overall,
        "tradeoff": scores.tradeoff,
        "fusions": scores.fusions,
        "time": bars.time,
        "forgetting": forgetting.forgetting,
        "probe": probe.probe,
        "maps": maps.maps,
        "shift": maps.shift,
        "stages": maps.stages,
    }
    with style():
        return drawers[kind](series)


def title_of(kind: str) -> str:
    """Return the title of a kind of pictures."""
    title = KINDS[kind].partition(":")[0]
    return f"{title[0].upper()}{title[1:]}"


def file_format(path: Path) -> str:
    """Return the picture format that a file's suffix stands for.

    Raises:
        ClbenchError: the suffix stands for no picture format.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise unknown("picture format", suffix or str(path), SUFFIXES)
    return suffix


def picture(figure: Figure, suffix: str, transparent: bool = False) -> bytes:
    """Return a picture's bytes in a format; the same figure gives the same bytes."""
    from clbench.reports.plots.style import style

    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[suffix]
    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # a name in letters that the font has not is drawn as boxes
        figure.savefig(buffer, format=suffix, metadata=metadata, transparent=transparent)
    return buffer.getvalue()


def page_svg(figure: Figure) -> str:
    """Return a picture as SVG for a page: without a background, its ink and colours lighter where the reader's screen is dark."""
    from clbench.reports.plots.style import ON_DARK

    text = picture(figure, "svg", transparent=True).decode("utf-8")
    for number, light in enumerate(ON_DARK):
        text = text.replace(light, f"var(--c{number})")
    light, dark = (
        "".join(f"--c{number}:{shade};" for number, shade in enumerate(chosen))
        for chosen in (ON_DARK, ON_DARK.values())
    )
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    head, tag, rest = text.partition("<defs>")
    return f"{head}{style}{tag}{rest}"


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format of the file's suffix, atomically."""
    content = picture(figure, file_format(path))
    make_folder(path.parent)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
