"""Pictures of scores over a run: matrix, curves, OP against the number of fusions, what is learned against what is forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from clbench.errors import ClbenchError
from clbench.records.record import Record
from clbench.reports.plots.series import Series, short_labels, titled
from clbench.reports.plots.style import (
    CHARACTER,
    COLOURS,
    NUMBERS,
    SMALL,
    WIDEST,
    End,
    colour,
    grid_shape,
    heat_map,
    label_ends,
    line_style,
    new_figure,
    note,
    panels_of,
    spread,
    to_numbers,
    wrapped,
    write_cells,
)

CELL, SMALL_CELL, LINE = 0.42, 0.25, 0.3  # inches: of a cell, of one among many, and of a line of a table
MANY = 8  # tasks from which two tables stand one below the other, and the cells of several matrices are small
LABEL = 2.2  # inches after which the name of a point is broken
PANEL = 1.35  # inches: the least width of a panel of curves, and its height


def matrix(series: Sequence[Series]) -> Figure:
    """Draw the scores on each task (column) after each task.

    A row is the task learned before; where several series know no more than the scores once learned and at the end, these are two
    tables with a row a series.
    """
    names = ordered_tasks(series)
    means = [mean_matrix(one) for one in series]
    if len(series) > 1 and all(is_sparse(values) for values in means):
        return two_tables(series, names, means)
    cell = CELL if len(series) == 1 or len(names) <= MANY else SMALL_CELL
    side, label = cell * len(names), CHARACTER * max(map(len, names)) + 0.2
    most = max(1, int((WIDEST - label) / (side + 0.2)))
    rows, columns = grid_shape(len(series), most)
    figure = new_figure(max(3.5, columns * (side + 0.15) + label + 1), rows * (side + 0.4) + label + 0.2)
    panels = panels_of(figure, len(series), most, sharex=True, sharey=True)
    for axes, one, values in zip(panels, series, means, strict=True):
        image = heat_map(axes, values, names, names, vmin=0, vmax=100)
        axes.set_title(wrapped(titled(one, series), side))
        write_cells(axes, image, values, SMALL if cell == CELL else 5.5)
    figure.colorbar(image, ax=panels, label="score (%)", shrink=min(1.0, 3 / rows / side + 0.3), aspect=30)
    note(figure, "columns: the task scored; rows: the task learned last")
    return figure


def two_tables(series: Sequence[Series], names: Sequence[str], means: Sequence[NUMBERS]) -> Figure:
    """Draw the score on each task (column) once it was learned and at the end, a row a series."""
    labels = [wrapped(titled(one, series), 2.2) for one in series]
    beside = len(names) <= MANY
    width, height = CELL * 1.15 * len(names), LINE * len(series) + 0.3
    room = CHARACTER * max(len(line) for label in labels for line in label.split("\n")) + 0.2
    below = CHARACTER * max(map(len, names)) + 0.2
    size = ((1 + beside) * width + room + 1.0, (2 - beside) * height + below + 0.2)
    figure = new_figure(*size)
    panels = panels_of(figure, 2, 1 + beside, sharex=True, sharey=True)
    tables = [np.array([np.diagonal(values) for values in means]), np.array([values[-1] for values in means])]
    for axes, values, title in zip(panels, tables, ("once learned", "after the last task"), strict=True):
        image = heat_map(axes, values, labels, names, vmin=0, vmax=100)
        axes.set_title(title)
        write_cells(axes, image, values)
    figure.colorbar(image, ax=panels, label="score (%)", shrink=min(1.0, 3 / size[1]), aspect=30)
    return figure


def is_sparse(values: NUMBERS) -> bool:
    """Return whether a score matrix holds no more than its diagonal and its last row."""
    known = ~np.isnan(values[:-1])
    return not bool(known[~np.eye(*known.shape).astype(bool)].any())


def curves(series: Sequence[Series]) -> Figure:
    """Draw the score on each task, from when it was learned to the end: a panel a task, a line a series."""
    names, labels = ordered_tasks(series), [wrapped(label, 2.5) for label in short_labels(series)]
    room = CHARACTER * 0.9 * max(len(line) for label in labels[: len(COLOURS)] for line in label.split("\n")) + 0.4
    most = max(1, min(len(names), int(WIDEST / (PANEL + room))))
    rows, columns = grid_shape(len(names), most)
    figure = new_figure(max(4.5, columns * (max(PANEL, 5 / columns - room) + room) + 0.5), (PANEL + 0.5) * rows + 0.3)
    panels = panels_of(figure, len(names), most, sharex=True, sharey=True)
    panels[0].set_xlim(0.7, len(names) + 0.3)
    panels[0].set_ylim(-2, 102)
    panels[0].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        label_ends(axes, draw_lines(axes, series, labels, j), PANEL)
        axes.set_title(f"{j + 1}. {name}")
        axes.grid(axis="y")
        if j >= len(names) - columns:  # the lowest of its column
            axes.set_xlabel("tasks learned")
        if j % columns == 0:
            axes.set_ylabel("score (%)")
    several = any(len(one.records) > 1 for one in series)
    note(
        figure,
        "band: ± standard deviation over runs" if several else "",
        f"grey: {', '.join(short_labels(series)[len(COLOURS) :])}" if len(series) > len(COLOURS) else "",
    )
    return figure


def draw_lines(axes: Axes, series: Sequence[Series], labels: Sequence[str], task: int) -> list[End]:
    """Draw the score on a task over time, a line a series, and return the ends of those that have a colour."""
    ends = []
    for number, (one, label) in enumerate(zip(series, labels, strict=True)):
        runs = to_numbers([[row[task] for row in record.scores] for record in one.records])
        known = np.nonzero(~np.isnan(runs).any(0))[0]
        if not len(known):
            continue
        mean, error = runs[:, known].mean(0), spread(runs[:, known])
        axes.plot(known + 1, mean, **line_style(number), clip_on=False)
        if number >= len(COLOURS):
            continue
        ends.append(End(known[-1] + 1, float(mean[-1]), label, colour(number)))
        if not np.isnan(error).any():
            axes.fill_between(known + 1, mean - error, mean + error, color=colour(number), alpha=0.13, linewidth=0)
    return ends


def fusions(series: Sequence[Series]) -> Figure:
    """Draw OP against the number of fusions of a run: a point a series, a line a group.

    Raises:
        ClbenchError: no run reports fusions, or all fuse equally often.
    """
    series = [one for one in series if all("fusions" in task for record in one.records for task in record.learned)]
    if not series:
        raise ClbenchError("no run reports fusions; this plot is of runs of rkif")
    found = to_numbers([fusions_and_op(one) for one in series])
    counts = found[:, 0]
    if len(set(counts)) < 2:
        raise ClbenchError(
            f"all runs fuse equally often ({counts[0]:g} times); this plot compares runs that do not: "
            "vary `--set window=...` of rkif"
        )
    figure = new_figure(7.0, max(3.4, 0.16 * len(series) + 1.4))
    axes = figure.subplots()
    for group in dict.fromkeys(one.group for one in series):
        line = found[[one.group == group for one in series]]
        axes.plot(*line[line[:, 0].argsort(), :2].T, color=colour(len(COLOURS)), linewidth=1, zorder=1)
    if counts.min() > 0:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("fusions in the run")
    axes.set_ylabel("OP (%)")
    labels = point_labels(series)
    draw_points(axes, found, range(len(series)))
    label_points(axes, found, labels, range(len(series)), figure.get_figheight() - 0.8)
    note_whiskers(figure, found)
    return figure


def tradeoff(series: Sequence[Series]) -> Figure:
    """Draw how well tasks are learned against how much is forgotten: a panel a group, in it a point a series.

    Across is BWT; up is the mean score on a task once it was learned. A series of the same label has the same colour everywhere.

    Raises:
        ClbenchError: no run forgets, as where each learns all tasks at once.
    """
    series = [one for one in series if all(record.metrics.bwt is not None for record in one.records)]
    if not series:
        raise ClbenchError("no run has a BWT; this plot is of runs that learn one task after another")
    names = list(dict.fromkeys(one.label for one in series))
    titles = sorted({one.group for one in series}, key=by_numbers)
    groups = {group: [one for one in series if one.group == group] for group in titles}
    height = max(2.6, 0.25 * max(map(len, groups.values())))
    rows, columns = grid_shape(len(groups), 2)
    width = 4.8 if columns == 1 else 3.4
    figure = new_figure(columns * (width + LABEL), rows * (height + 0.4) + 0.4)
    panels = panels_of(figure, len(groups), 2, sharex=True, sharey=True)
    found = {group: to_numbers([forgotten_and_learned(one) for one in own]) for group, own in groups.items()}
    shades = {group: [names.index(one.label) for one in own] for group, own in groups.items()}
    for axes, group in zip(panels, groups, strict=True):
        draw_points(axes, found[group], shades[group])
        axes.set_title(wrapped(differing(group, titles), width))
    for axes, (group, own) in zip(panels, groups.items(), strict=True):  # the panels' common range is known now
        label_points(axes, found[group], point_labels(own), shades[group], height)
    for axes in panels[-columns:]:
        axes.set_xlabel("BWT (%): less is forgotten to the right")
    for axes in panels[::columns]:
        axes.set_ylabel("score once learned (%)")
    note_whiskers(figure, np.concatenate(list(found.values())))
    return figure


def differing(group: str, groups: Sequence[str]) -> str:
    """Return the parts of a group's title that not all groups have: 'lr 0.001' of recipes that differ in it."""
    told = [other.split(", ") for other in groups]
    return ", ".join(part for part in group.split(", ") if not all(part in other for other in told))


def by_numbers(text: str) -> list[str | float]:
    """Return what sorts a text by the numbers in it: '2 ep' before '10 ep'."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [float(part) if number % 2 else part for number, part in enumerate(parts)]


def draw_points(axes: Axes, found: NUMBERS, shades: Sequence[int]) -> None:
    """Draw a point a row of `found`: x, y, the deviation of y, that of x (nan: none)."""
    for shade, (x, y, *errors) in zip(shades, found, strict=True):
        high, wide = (None if np.isnan(error) else error for error in errors)
        axes.errorbar(x, y, high, wide, color=colour(shade), elinewidth=1, capsize=2, fmt="o", markersize=7)
    axes.grid()
    axes.margins(0.08, 0.12)


def point_labels(series: Sequence[Series]) -> list[str]:
    """Return the labels of points: whole in a line, or with what tells them from the method's others ('...': there is more)."""
    labels = []
    for one, short in zip(series, short_labels(series), strict=True):
        label = titled(one, series)
        if "\n" in wrapped(label, LABEL) and short != label:
            label = f"{short.removesuffix(')')}, ...)" if short.endswith(")") else short
        labels.append(wrapped(label, LABEL))
    return labels


def label_points(axes: Axes, found: NUMBERS, labels: Sequence[str], shades: Sequence[int], height: float) -> None:
    """Name the points of a panel at its right; its range must not change after that."""
    ends = [End(row[0], row[1], label, colour(shade)) for row, label, shade in zip(found, labels, shades, strict=True)]
    label_ends(axes, ends, height)


def note_whiskers(figure: Figure, found: NUMBERS) -> None:
    """Say below a picture of points what their whiskers are, where there are any."""
    note(figure, "" if np.isnan(found[:, 2:]).all() else "whiskers: ± standard deviation over runs")


def forgotten_and_learned(series: Series) -> tuple[float, float, float, float]:
    """Return the mean BWT of a series' runs, their mean score on a task once learned, its deviation, and that of BWT."""
    learned = to_numbers([[float(np.mean(np.diagonal(to_numbers(record.scores))))] for record in series.records])
    forgotten = to_numbers([[record.metrics.bwt] for record in series.records])
    return float(forgotten.mean()), float(learned.mean()), float(spread(learned)[0]), float(spread(forgotten)[0])


def fusions_and_op(series: Series) -> tuple[float, float, float, float]:
    """Return the mean number of fusions of a series' runs, their OP, its standard deviation, and none for the number."""
    counts = [sum(task.get("fusions") or 0 for task in record.learned) for record in series.records]
    scores = to_numbers([[record.metrics.op] for record in series.records])
    return float(np.mean(counts)), float(scores.mean()), float(spread(scores)[0]), np.nan


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
