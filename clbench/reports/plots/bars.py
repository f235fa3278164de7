"""Pictures of bars that are named beside them and say their values: bars, overall, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clbench.errors import ClbenchError
from clbench.records.summary import measure_of
from clbench.reports.plots.scores import task_names
from clbench.reports.plots.series import Series, titled
from clbench.reports.plots.style import (
    CHARACTER,
    COLOURS,
    GRID,
    INK,
    NUMBERS,
    REST,
    SMALL,
    WIDEST,
    grid_shape,
    new_figure,
    note,
    spread,
    to_numbers,
    wrapped,
)

LINE, COLUMN = 0.24, 1.5  # inches of a bar with its name, and of a column of bars at least
NAME = 2.2  # inches of a name in one line
SHORT = 2.0  # minutes below which times, most of which are shorter, are given in seconds


@dataclass(frozen=True)
class Block:
    """Panels beside one another that share the names of their bars; `means` and `spreads` have the shape (names, panels).

    The bars of `pale` names are upper bounds.
    """

    title: str
    names: Sequence[str]
    panels: Sequence[str]
    means: NUMBERS
    spreads: NUMBERS
    pale: Sequence[bool]


def bars(series: Sequence[Series]) -> Figure:
    """Draw the score on each task after the last one and their mean (OP): a panel a task, a bar a series.

    Of one series there is one panel, a bar a task.

    Raises:
        ClbenchError: the runs have other tasks than one another.
    """
    tasks = list(dict.fromkeys(task_names(series[0].records[0])))
    last = []
    for one in series:
        of_run = [dict(zip(task_names(record), record.scores[-1], strict=True)) for record in one.records]
        if any(set(scores) != set(tasks) for scores in of_run):
            raise ClbenchError("the runs have other tasks than one another; choose those of one stream with --stream")
        scores = to_numbers([[scores[name] for name in tasks] for scores in of_run])
        last.append(np.column_stack([scores, scores.mean(1)]))
    panels = [*tasks, "mean (OP)"]
    means, spreads = np.array([scores.mean(0) for scores in last]), np.array([spread(scores) for scores in last])
    names, pale = [titled(one, series) for one in series], [one.is_upper_bound for one in series]
    if len(series) == 1:
        return draw_blocks([Block("", panels, names, means.T, spreads.T, pale * len(panels))], ["score (%)"], (0, 100))
    _, most = grid_shape(len(panels), max(1, int((WIDEST - name_room(names)) / COLUMN)))
    blocks = [
        Block("", names, panels[k : k + most], means[:, k : k + most], spreads[:, k : k + most], pale)
        for k in range(0, len(panels), most)
    ]
    return draw_blocks(blocks, ["score (%)"] * most, (0, 100))


def overall(series: Sequence[Series]) -> Figure:
    """Draw OP and BWT: two panels a group (stream, recipe, backbone), each with the bars of those that it has."""
    return draw_blocks([block_of(group, ("op", "bwt"), series) for group in groups_of(series)], ["OP (%)", "BWT (%)"])


def time(series: Sequence[Series]) -> Figure:
    """Draw the time of one epoch, mean over tasks: a panel a group (stream, recipe, backbone), a bar a series."""
    blocks = [block_of(group, ("minutes_per_epoch",), series) for group in groups_of(series)]
    unit, factor = "minutes", 1
    known = np.concatenate([block.means for block in blocks])
    if np.median(known[np.isfinite(known)] if np.isfinite(known).any() else [0.0]) < SHORT:
        unit, factor = "seconds", 60
    scaled = [
        Block(block.title, block.names, block.panels, factor * block.means, factor * block.spreads, block.pale)
        for block in blocks
    ]
    return draw_blocks(scaled, [f"{unit} an epoch, mean over tasks"])


def groups_of(series: Sequence[Series]) -> list[list[Series]]:
    """Return the series by their group."""
    return [[one for one in series if one.group == group] for group in dict.fromkeys(one.group for one in series)]


def block_of(group: Sequence[Series], measures: Sequence[str], everything: Sequence[Series]) -> Block:
    """Return measures of the runs of a group as a block, a panel a measure."""
    values = [to_numbers([[measure_of(record, name) for name in measures] for record in one.records]) for one in group]
    title = group[0].group if len(group) < len(everything) else ""
    means, spreads = np.array([runs.mean(0) for runs in values]), np.array([spread(runs) for runs in values])
    return Block(
        title, [one.label for one in group], [""] * len(measures), means, spreads, [o.is_upper_bound for o in group]
    )


def draw_blocks(blocks: Sequence[Block], axis: Sequence[str], limits: tuple[float, float] | None = None) -> Figure:
    """Draw blocks below one another; panels of a column share their scale.

    Args:
        axis: what each column shows, with its unit.
        limits: of every scale; none: those of the values.
    """
    room = max(name_room(block.names) for block in blocks)
    lines = [len(block.names) + 0.8 for block in blocks]
    width = max(COLUMN, (6.5 - room) / len(axis)) * len(axis) + room
    figure = new_figure(width, LINE * sum(lines) + 0.28 * len(blocks) + 0.35)
    grid = figure.subplots(len(blocks), len(axis), squeeze=False, sharex="col", height_ratios=lines)
    scales = [limits or scale_of([ends_of(block)[:, k] for block in blocks]) for k in range(len(axis))]
    for of_block, block in zip(grid, blocks, strict=True):
        for k, axes in enumerate(of_block):
            if k >= len(block.panels):
                axes.remove()
                continue
            draw_panel(axes, block, k, scales[k])
            axes.set_title(block.panels[k] or (wrapped(block.title, width - room) if k == 0 else ""), loc="left")
            if k == 0:
                axes.set_yticks(
                    range(len(block.names)), [wrapped(name, NAME) for name in block.names], fontsize=SMALL + 1
                )
            if block is blocks[-1] or limits is None:
                axes.set_xlabel(axis[k])
    several = any(not np.isnan(block.spreads).all() for block in blocks)
    pale = any(any(block.pale) for block in blocks)
    note(figure, "whiskers: ± standard deviation over runs" * several, "grey: an upper bound" * pale)
    return figure


def draw_panel(axes: Axes, block: Block, column: int, scale: tuple[float, float]) -> None:
    """Draw the bars of one panel, each with its value at its end."""
    means, spreads = block.means[:, column], block.spreads[:, column]
    places = np.arange(len(means))
    shades = [REST if pale else COLOURS[0] for pale in block.pale]
    axes.barh(places, means, 0.68, color=shades)
    known = ~np.isnan(spreads)
    if known.any():
        axes.errorbar(
            means[known], places[known], xerr=spreads[known], fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5
        )
    for place, mean, error in zip(places, means, np.nan_to_num(spreads), strict=True):
        if not np.isnan(mean):
            side = -1 if mean < 0 else 1
            axes.annotate(
                f"{mean:.1f}" if abs(mean) < 100 else f"{mean:.0f}", (mean + side * error, place), (3 * side, 0),
                textcoords="offset points", va="center", ha="left" if side > 0 else "right", fontsize=SMALL,
            )  # fmt: skip
    low, high = scale
    margin = 0.3 * (high - low)  # for the values
    axes.set_xlim(low - margin * (low < 0), high + margin * (high > 0))
    axes.set_ylim(len(means) - 0.4, -0.6)
    axes.set_xticks([tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high])
    axes.tick_params(axis="x", labelsize=SMALL + 1)
    axes.tick_params(axis="y", length=0, labelleft=column == 0)
    axes.set_yticks(range(len(means)))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=GRID)


def ends_of(block: Block) -> NUMBERS:
    """Return where the whiskers of a block's bars end, the bars themselves where they have none."""
    ends: NUMBERS = block.means + np.sign(block.means) * np.nan_to_num(block.spreads)
    return ends


def scale_of(values: Sequence[NUMBERS]) -> tuple[float, float]:
    """Return the range of values, zero within it."""
    known = np.concatenate(values)
    known = known[~np.isnan(known)]
    low, high = min(0.0, known.min(initial=0.0)), max(0.0, known.max(initial=0.0))
    return (float(low), float(high)) if high > low else (0.0, 1.0)


def name_room(names: Sequence[str]) -> float:
    """Return the inches that the names of bars take, longer ones broken into lines."""
    return CHARACTER * max(len(line) for name in names for line in wrapped(name, NAME).split("\n")) + 0.2
