"""What all pictures share: colours ordered by luminance, hatches and markers (so that they read in grey), legend, layout."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

COLOURS = "cividis"  # its luminance grows evenly
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oooo", "----", "++++", "||||", "//..", "xx--", "\\\\..", "**")
MARKERS = "osD^v<>PXph*d8"
DASHES = ("-", "--", "-.", ":")
CHARACTER = 0.075  # inches of a character of the usual size
LEGEND_LINE = 0.2  # inches
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
            "hatch.linewidth": 0.5,
            "savefig.dpi": 130,
            "svg.hashsalt": "clbench",
            "svg.fonttype": "path",
            "text.parse_math": False,  # a name may hold what mathematics does not: $
        }
    )


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches whose parts are laid out so that they do not overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def colours(count: int, lightest: float = 1.0) -> list[Any]:
    """Return as many colours, dark to light."""
    shades = matplotlib.colormaps[COLOURS](np.linspace(0, lightest, count) if count > 1 else [0.35])
    return [tuple(map(float, shade)) for shade in shades]


def bar_style(number: int, count: int) -> dict[str, Any]:
    """Return how the bars of one series of several look."""
    shade = colours(count)[number]
    ink = "white" if luminance(shade) < 0.45 else "black"
    return {
        "facecolor": shade,
        "hatch": HATCHES[number % len(HATCHES)],
        "edgecolor": ink,
        "linewidth": 0.0,
    }


def line_style(number: int, count: int) -> dict[str, Any]:
    """Return how the line of one series of several looks."""
    return {
        "color": colours(count, 0.85)[number],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
        "markersize": 5,
        "markeredgecolor": "black",
        "markeredgewidth": 0.5,
        "linewidth": 1.2,
    }


def luminance(shade: Sequence[float]) -> float:
    """Return how light a colour is, 0 to 1 (Rec. 709)."""
    red, green, blue = shade[:3]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend below the picture, in as many columns as its width takes; the picture grows by its height."""
    room = CHARACTER * max(map(len, labels)) + 0.6
    columns = max(1, min(len(labels), int(figure.get_figwidth() / room)))
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * -(-len(labels) // columns) + 0.1)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handleheight=1.2)


def name_ticks(axes: Axes, names: Sequence[str], room: float) -> None:
    """Name the places 0, 1, ... of the x axis; where a name is wider than its room in inches, slanted below a taller picture."""
    axes.xaxis.set_major_locator(FixedLocator(list(range(len(names)))))
    longest = CHARACTER * max(map(len, names))
    slanted = longest > room
    if slanted and isinstance(axes.figure, Figure):
        axes.figure.set_figheight(axes.figure.get_figheight() + longest / 2)
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticklabels(names, **turned)
    axes.tick_params(axis="x", length=0)


def heat_map(axes: Axes, values: NUMBERS, rows: Sequence[str], columns: Sequence[str], **scale: Any) -> Any:
    """Draw a matrix, what is not there left white, and name its rows and columns; return the image."""
    image = axes.imshow(np.ma.masked_invalid(values), cmap=COLOURS, aspect="auto", interpolation="nearest", **scale)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def wrapped(text: str, room: float) -> str:
    """Return a text broken into lines that fit into some inches."""
    return textwrap.fill(text, max(8, int(room / CHARACTER)), break_on_hyphens=False)


def grid_shape(panels: int, most: int) -> tuple[int, int]:
    """Return rows and columns of panels, at most so many columns, the rows filled evenly."""
    rows = -(-panels // most)
    return rows, -(-panels // rows)


def panels_of(figure: Figure, panels: int, most: int, **shared: Any) -> list[Axes]:
    """Return the axes of a grid of panels, row by row; superfluous ones are removed."""
    rows, columns = grid_shape(panels, most)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for left_over in axes[panels:]:
        left_over.remove()
    return axes[:panels]
