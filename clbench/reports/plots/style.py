"""What all pictures share: colours that read on light and dark, labels at the ends of lines, sizes, layout."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, FAINT, GRID, REST = "#1b1b1b", "#5c5c5c", "#e1e1e1", "#b3b3b3"  # REST: lines and bars that are not told apart
COLOURS = [matplotlib.colormaps["tab10"].colors[number] for number in (0, 1, 2, 3, 4, 5, 6, 9)]  # type: ignore[attr-defined]
ON_DARK = {INK: "#e6e6e6", FAINT: "#a9a9a9", GRID: "#3a3c40", REST: "#6d7076"} | {
    to_hex((red, green, blue)): to_hex((0.7 * red + 0.3, 0.7 * green + 0.3, 0.7 * blue + 0.3))
    for red, green, blue in COLOURS
}  # each colour as it is on a dark page
SHADES = "viridis"  # of heat maps: its luminance grows evenly, and the colour-blind can read it
MARKERS = "osD^v<>P"
CHARACTER = 0.075  # inches of a character of the usual size
SMALL, SMALL_LINE = 7, 0.125  # points of small text, and inches of a line of it
WIDEST = 11.0  # inches that a picture takes at most, where it can
NUMBERS = NDArray[np.float64]


def style() -> AbstractContextManager[None]:
    """Return the context in which pictures are drawn and written."""
    return matplotlib.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.grid": False,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
            "grid.color": GRID,
            "savefig.dpi": 130,
            "svg.hashsalt": "clbench",
            "svg.fonttype": "path",
            "text.parse_math": False,  # a name may hold what mathematics does not: $
        }
    )


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches whose parts are laid out so that they do not overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def colour(number: int) -> Any:
    """Return the colour of one series of several; beyond the colours that can be told apart, grey."""
    return COLOURS[number] if number < len(COLOURS) else REST


def line_style(number: int) -> dict[str, Any]:
    """Return how the line of one series of several looks; those without a colour are thin, without markers, and lie behind."""
    if number >= len(COLOURS):
        return {"color": REST, "linewidth": 0.8, "zorder": 2}
    shape = MARKERS[number % len(MARKERS)]
    return {"color": COLOURS[number], "linewidth": 1.6, "marker": shape, "markersize": 4.5, "zorder": 3}


def luminance(shade: Sequence[float]) -> float:
    """Return how light a colour is, 0 to 1 (Rec. 709)."""
    red, green, blue = shade[:3]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ink_on(image: Any, value: float) -> str:
    """Return the colour of a text that is read on a cell of a heat map."""
    return "white" if luminance(image.cmap(image.norm(value))) < 0.45 else "black"


@dataclass(frozen=True)
class End:
    """Where a line ends, and how it is called and coloured there."""

    x: float
    y: float
    label: str
    colour: Any


def label_ends(axes: Axes, ends: Sequence[End], height: float) -> None:
    """Write the names of lines to the right of a panel, each beside its line's end and none over another.

    Args:
        height: the panel's, in inches.
    """
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end.y)
    lines = max((end.label.count("\n") + 1 for end in ends), default=1)
    places = spread_out([end.y for end in ordered], lines * SMALL_LINE / height * (high - low), low, high)
    for end, place in zip(ordered, places, strict=True):
        axes.annotate(
            end.label, (end.x, end.y), (1.07, place), xycoords="data", textcoords=axes.get_yaxis_transform(),
            va="center", fontsize=SMALL, color=FAINT if end.colour == REST else end.colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread_out(places: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Return ascending places moved as little as they must be to lie `room` apart, and between bounds where they can."""
    runs: list[
        tuple[float, int]
    ] = []  # neighbours that touch: where the first of them would lie, and how many they are
    for number, place in enumerate(places):
        runs.append((place - number * room, 1))
        while len(runs) > 1 and runs[-2][0] > runs[-1][0]:
            (one, of_one), (other, of_other) = runs[-2:]
            runs[-2:] = [((one * of_one + other * of_other) / (of_one + of_other), of_one + of_other)]
    starts = [start for start, count in runs for _ in range(count)]
    return [max(low, min(start, high - (len(places) - 1) * room)) + n * room for n, start in enumerate(starts)]


def note(figure: Figure, *texts: str) -> None:
    """Write below a picture what a reader must know of it; empty texts say nothing."""
    said = "; ".join(filter(None, texts))
    if said:
        lines = wrapped(said, figure.get_figwidth() * 1.1)
        figure.set_figheight(figure.get_figheight() + SMALL_LINE * (lines.count("\n") + 1))
        figure.supxlabel(lines, fontsize=SMALL + 1, color=FAINT)


def put_title(figure: Figure, title: str, subject: str) -> None:
    """Write a title over a picture, and below it what runs it is of; the picture grows by their height."""
    room = 0.95 * figure.get_figwidth()
    lines = "\n".join(filter(None, [wrapped(title, room), wrapped(subject, room)]))
    figure.set_figheight(figure.get_figheight() + 0.16 * (lines.count("\n") + 1))
    figure.suptitle(lines, fontsize="medium")


def heat_map(axes: Axes, values: NUMBERS, rows: Sequence[str], columns: Sequence[str], **scale: Any) -> Any:
    """Draw a matrix, what is not there left out, and name its rows and columns; return the image."""
    image = axes.imshow(np.ma.masked_invalid(values), cmap=SHADES, aspect="auto", interpolation="nearest", **scale)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def write_cells(axes: Axes, image: Any, values: NUMBERS, size: float = SMALL) -> None:
    """Write the values of a heat map into its cells, in whole numbers."""
    for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
        ink = ink_on(image, values[i, j])
        axes.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", color=ink, fontsize=size)


def wrapped(text: str, room: float) -> str:
    """Return a text broken into lines that fit into some inches."""
    return textwrap.fill(text, max(8, int(room / CHARACTER)), break_on_hyphens=False)


def grid_shape(panels: int, most: int) -> tuple[int, int]:
    """Return rows and columns of panels, at most so many columns, the rows filled evenly."""
    rows = -(-panels // most)
    return rows, -(-panels // rows)


def panels_of(figure: Figure, panels: int, most: int, **shared: Any) -> list[Axes]:
    """Return the axes of a grid of panels, row by row; superfluous ones are removed.

    Of panels that share an axis, those at the left and the lowest of their columns name its ticks.
    """
    rows, columns = grid_shape(panels, most)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for left_over in axes[panels:]:
        left_over.remove()
    for number in range(panels - columns, panels) if shared else ():
        axes[number].tick_params(axis="x", labelbottom=True)
    return axes[:panels]


def spread(values: NUMBERS) -> NUMBERS:
    """Return the standard deviation over runs (rows), nan for a single one."""
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def to_numbers(values: Sequence[Sequence[float | None]]) -> NUMBERS:
    """Return values as an array, nan for none."""
    return np.array(values, dtype=float)
