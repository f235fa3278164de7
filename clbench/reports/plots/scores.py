"""Pictures of scores and times: matrix, curves, bars, overall, fusions, time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from clbench.errors import ClbenchError
from clbench.records.record import Record
from clbench.records.summary import measure_of
from clbench.reports.plots.style import (
    CHARACTER,
    MARKERS,
    NUMBERS,
    bar_style,
    colours,
    grid_shape,
    heat_map,
    legend,
    line_style,
    luminance,
    name_ticks,
    new_figure,
    panels_of,
    wrapped,
)

if TYPE_CHECKING:
    from clbench.reports.plots.series import Series

BAR, GAP = 0.13, 0.3  # inches of a bar, and between two groups of bars
WIDEST = 11.0  # inches
FEW = 6  # series up to which a small panel is large enough
SHORT = 2.0  # minutes below which a time is given in seconds


def matrix(series: Sequence[Series]) -> Figure:
    """Draw the score matrix of each series: the score on a task (column) after learning another (row)."""
    names = ordered_tasks(series)
    cell = 0.42 if len(series) == 1 else 0.3 if len(names) > 6 else 0.4
    side = cell * len(names) + CHARACTER * max(map(len, names)) + 0.4
    most = max(1, int(WIDEST * 1.3 / side))
    rows, columns = grid_shape(len(series), most)
    figure = new_figure(max(3.5, columns * side) + 0.8, rows * (side + 0.25))
    panels = panels_of(figure, len(series), most)
    for axes, one in zip(panels, series, strict=True):
        values = mean_matrix(one)
        image = heat_map(axes, values, names, names, vmin=0, vmax=100)
        axes.set_title(wrapped(titled(one, series), side))
        for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
            ink = "white" if luminance(image.cmap(image.norm(values[i, j]))) < 0.45 else "black"
            axes.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", color=ink, fontsize=7)
    figure.colorbar(image, ax=panels, label="score (%)", shrink=min(1.0, 3 / rows / side + 0.3), aspect=30)
    figure.supxlabel("scored task", fontsize="medium")
    figure.supylabel("after learning", fontsize="medium")
    return figure


def curves(series: Sequence[Series]) -> Figure:
    """Draw the score on each task, from when it was learned to the end: a panel a task, a line a series."""
    names = ordered_tasks(series)
    matrices = [mean_matrix(one) for one in series]
    rows, columns = grid_shape(len(names), 5)
    size = 1.25 if len(series) > FEW else 1.0
    figure = new_figure(max(5.0, 2.1 * size * columns + 0.5), 1.7 * size * rows + 0.3)
    panels = panels_of(figure, len(names), 5, sharex=True, sharey=True)
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        for number, values in enumerate(matrices):
            known = np.nonzero(~np.isnan(values[:, j]))[0]
            axes.plot(known + 1, values[known, j], **line_style(number, len(series)), clip_on=False, zorder=3)
        axes.set_title(f"{j + 1}. {name}")
        axes.grid(axis="y", color="0.85")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    panels[0].set_xlim(0.7, len(names) + 0.3)
    panels[0].set_ylim(-2, 102)
    for number, axes in enumerate(panels):
        if number >= len(names) - columns:  # the lowest of its column
            axes.tick_params(axis="x", labelbottom=True)
            axes.set_xlabel("tasks learned")
        if number % columns == 0:
            axes.set_ylabel("score (%)")
    legend(figure, panels[0].get_lines(), [titled(one, series) for one in series])
    return figure


def bars(series: Sequence[Series]) -> Figure:
    """Draw the score on each task after the last one, and their mean (OP), a bar a series."""
    names = list(dict.fromkeys(task_names(series[0].records[0])))
    last = []
    for one in series:
        of_run = [dict(zip(task_names(record), record.scores[-1], strict=True)) for record in one.records]
        if any(set(scores) != set(names) for scores in of_run):
            raise ClbenchError("the runs have other tasks than one another; choose those of one stream with --stream")
        scores = to_numbers([[scores[name] for name in names] for scores in of_run])
        last.append(np.column_stack([scores, scores.mean(1)]))
    means = np.array([scores.mean(0) for scores in last])
    spreads = np.array([spread(scores) for scores in last])
    return grouped_bars([titled(one, series) for one in series], [*names, "mean (OP)"], means, spreads, "score (%)")


def overall(series: Sequence[Series]) -> Figure:
    """Draw OP and BWT: a group of bars a stream, recipe or backbone, a bar a method; of one group, a named bar a method."""
    labels = list(dict.fromkeys(one.label for one in series))
    groups = list(dict.fromkeys(one.group for one in series))
    place = {(one.label, one.group): one for one in series}
    found = np.full((2, 2, len(labels), len(groups)), np.nan)
    for m, measure in enumerate(("op", "bwt")):
        for (label, group), one in place.items():
            values = to_numbers([[measure_of(record, measure)] for record in one.records])
            found[m, :, labels.index(label), groups.index(group)] = values.mean(), spread(values)[0]
    if len(groups) == 1:
        found, labels, groups = found.transpose(0, 1, 3, 2), groups, labels
    width = bars_width(len(labels), len(groups), groups)
    figure = new_figure(width, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes, (means, spreads), name in zip((upper, lower), found, ("OP (%)", "BWT (%)"), strict=True):
        handles = draw_bars(axes, labels, means, spreads)
        axes.set_ylabel(name)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.spines.bottom.set_visible(False)
        axes.tick_params(axis="x", length=0)
    name_ticks(lower, groups, width / len(groups) - 0.2)
    if len(labels) > 1:
        legend(figure, handles, labels)
    return figure


def fusions(series: Sequence[Series]) -> Figure:
    """Draw OP against the number of fusions of a run, a line a group, a marker a series."""
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    points: dict[str, list[tuple[float, float, float]]] = {}
    series = [one for one in series if all("fusions" in task for record in one.records for task in record.learned)]
    if not series:
        raise ClbenchError("no run reports fusions; this plot is of runs of rkif")
    for one in series:
        counts = [[sum(task.get("fusions") or 0 for task in record.learned)] for record in one.records]
        scores = to_numbers([[record.metrics.op] for record in one.records])
        points.setdefault(one.group, []).append((float(np.mean(counts)), float(scores.mean()), spread(scores)[0]))
    for group in points.values():
        line = np.array(sorted(group))
        axes.plot(line[:, 0], line[:, 1], color="0.6", linewidth=1, zorder=1)
    everywhere = [point for one in series for point in [points[one.group].pop(0)]]
    for number, (one, (x, y, error)) in enumerate(zip(series, everywhere, strict=True)):
        axes.errorbar(
            x, y, error if error > 0 else None, fmt=MARKERS[number % len(MARKERS)], color=colours(len(series), 0.85)[number],
            ecolor="black", elinewidth=0.8, capsize=2, markersize=8, markeredgecolor="black", markeredgewidth=0.6,
            label=titled(one, series),
        )  # fmt: skip
    if min(x for x, *_ in everywhere) > 0:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("fusions in the run")
    axes.set_ylabel("OP (%)")
    axes.grid(color="0.88")
    axes.margins(0.08, 0.12)
    legend(figure, *axes.get_legend_handles_labels())
    return figure


def time(series: Sequence[Series]) -> Figure:
    """Draw the time of one epoch, mean over tasks, by method; a bar a group (backbone, stream)."""
    labels = list(dict.fromkeys(one.label for one in series))
    groups = list(dict.fromkeys(one.group for one in series))
    found = np.full((len(groups), len(labels), 2), np.nan)
    for one in series:
        values = to_numbers([[measure_of(record, "minutes_per_epoch")] for record in one.records])
        found[groups.index(one.group), labels.index(one.label)] = values.mean(), spread(values)[0]
    unit, factor = ("seconds", 60) if np.nanmax(found, initial=0.0) < SHORT else ("minutes", 1)
    found *= factor
    bar = 0.8 / len(groups)
    figure = new_figure(7.0, max(2.2, len(labels) * (0.16 + 0.2 * len(groups)) + 1.2))
    axes = figure.subplots()
    for g, group in enumerate(groups):
        places = np.arange(len(labels)) + (g - (len(groups) - 1) / 2) * bar
        means, spreads = found[g, :, 0], found[g, :, 1]
        axes.barh(places, means, bar * 0.92, label=group, **bar_style(g, len(groups)))
        axes.errorbar(means, places, xerr=shown(spreads), fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        for place, mean, error in zip(places, means, np.nan_to_num(spreads), strict=True):
            if not np.isnan(mean):
                axes.annotate(
                    f"{mean:.3g}", (mean + error, place), (4, 0), textcoords="offset points", va="center", fontsize=8
                )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} an epoch, mean over tasks")
    axes.grid(axis="x", color="0.88")
    if len(groups) > 1:
        legend(figure, *axes.get_legend_handles_labels())
    return figure


def grouped_bars(labels: Sequence[str], groups: Sequence[str], means: NUMBERS, spreads: NUMBERS, axis: str) -> Figure:
    """Draw groups of bars, in as many rows as they need; means and spreads have the shape (labels, groups)."""
    most = max(1, int((WIDEST - 0.8) / (BAR * len(labels) + GAP)))
    rows, columns = grid_shape(len(groups), most)
    width = bars_width(len(labels), columns, groups)
    figure = new_figure(width, 1.9 * rows + 0.4)
    for number, axes in enumerate(figure.subplots(rows, 1, squeeze=False, sharey=True).flat):
        part = slice(number * columns, (number + 1) * columns)
        handles = draw_bars(axes, labels, means[:, part], spreads[:, part])
        name_ticks(axes, groups[part], (width - 0.8) / columns)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(0, 100)
        axes.set_ylabel(axis)
    legend(figure, handles, labels)
    return figure


def bars_width(labels: int, groups: int, names: Sequence[str]) -> float:
    """Return a picture's width in inches in which so many groups of bars find room, and their names where it can be."""
    group = max(BAR * labels + GAP, min(CHARACTER * max(map(len, names)) + 0.15, WIDEST / groups))
    return min(WIDEST, max(4.5, groups * group + 0.8))


def draw_bars(axes: Axes, labels: Sequence[str], means: NUMBERS, spreads: NUMBERS) -> list[Any]:
    """Draw groups of bars at 0, 1, ... and return a handle a label."""
    count, handles = len(labels), []
    bar = 0.82 / count
    for number in range(count):
        places = np.arange(means.shape[1]) + (number - (count - 1) / 2) * bar
        handles.append(axes.bar(places, means[number], bar * 0.95, **bar_style(number, count)))
        axes.errorbar(
            places, means[number], shown(spreads[number]), fmt="none", ecolor="0.25", elinewidth=0.8, capsize=1.5
        )
    axes.grid(axis="y", color="0.88")
    return handles


def shown(spreads: NUMBERS) -> NUMBERS | None:
    """Return error bars, none where no value has a spread."""
    return None if np.isnan(spreads).all() else np.nan_to_num(spreads)


def spread(values: NUMBERS) -> NUMBERS:
    """Return the standard deviation over runs (rows), nan for a single one."""
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)


def to_numbers(values: Sequence[Sequence[float | None]]) -> NUMBERS:
    """Return values as an array, nan for none."""
    return np.array(values, dtype=float)


def task_names(record: Record) -> list[str]:
    """Return the names of a record's tasks in their order."""
    return [task.name for task in record.tasks]


def ordered_tasks(series: Sequence[Series]) -> list[str]:
    """Return the tasks that all runs learned, in their order.

    Raises:
        ClbenchError: the runs have other tasks or another order.
    """
    found = {tuple(task_names(record)): record.stream.name for one in series for record in one.records}
    if len(found) > 1:
        raise ClbenchError(f"the runs are of several streams; choose one with --stream {' | '.join(found.values())}")
    return list(next(iter(found)))


def mean_matrix(series: Series) -> NUMBERS:
    """Return the mean of the runs' score matrices, nan where one has none."""
    mean: NUMBERS = np.mean([to_numbers(record.scores) for record in series.records], axis=0)
    return mean


def titled(one: Series, series: Sequence[Series]) -> str:
    """Return a series' label, with its group where another one has the same label."""
    alike = [other for other in series if other.label == one.label]
    return f"{one.label}, {one.group}" if len(alike) > 1 and one.group else one.label
