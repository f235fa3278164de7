"""The picture of forgetting: what became of the answers that were right once, a bar a task, a panel a series."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clbench.errors import ClbenchError, ClbenchWarning
from clbench.records.answers import read_answers
from clbench.reports.forgetting import KINDS, explain
from clbench.reports.plots.series import Series
from clbench.reports.plots.style import CHARACTER, NUMBERS, grid_shape, new_figure, panels_of, wrapped

KEPT = "still right"
COLOURS = {KEPT: "#c9c9c9", "other task": "#d55e00", "own label": "#0072b2", "free text": "#56b4e9"}  # Okabe and Ito
DARK = ("own label",)  # on which a number is written in white
LABELS: dict[str, str] = {KEPT: KEPT, **{str(kind): label for kind, label in KINDS.items()}}
Shares = Mapping[str, Mapping[str, float]]  # by task and by what the questions are at the end, in percent
LINE, WIDTH = 0.28, 3.4  # inches of a bar with its room, and of a panel without the names
NUMBERED = 7.0  # percent from which a part of a bar has its number


def forgetting(series: Sequence[Series]) -> Figure:
    """Draw of each task the share of questions right after learning it, cut into what they are at the end; mean over runs.

    Series whose answers tell nothing of it, such as of a method that learns all tasks at once, are left out with a warning.

    Raises:
        ClbenchError: the answers of all of them tell nothing.
    """
    found: list[tuple[Series, Shares]] = []
    for one in series:
        try:
            found.append((one, shares_of(one)))
        except ClbenchError as error:
            warnings.warn(f"left out: {error}", ClbenchWarning, stacklevel=2)
    if not found:
        raise ClbenchError("the answers of these runs tell nothing of forgetting: it takes --matrix bwt, lower or full")
    tasks = list(dict.fromkeys(name for _, of_task in found for name in of_task))
    groups = {one.group for one, _ in found}
    rows, columns = grid_shape(len(found), 3)
    names = CHARACTER * max(map(len, tasks)) + 0.2
    figure = new_figure(columns * WIDTH + names, rows * (LINE * len(tasks) + 0.75) + 0.7)
    panels = panels_of(figure, len(found), 3, sharex=True, sharey=True)
    for axes, (one, of_task) in zip(panels, found, strict=True):
        _draw_bars(axes, tasks, of_task)
        axes.set_title(wrapped(one.label if len(groups) == 1 else f"{one.label}, {one.group}", WIDTH))
    patches = [Patch(color=COLOURS[kind], label=label) for kind, label in LABELS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_bars(axes: Axes, tasks: Sequence[str], of_task: Shares) -> None:
    begin = np.zeros(len(tasks))
    for kind, colour in COLOURS.items():
        values = np.array([of_task[name][kind] if name in of_task else 0.0 for name in tasks])
        bars = axes.barh(range(len(tasks)), values, left=begin, color=colour, height=0.7)
        shown = [f"{value:.0f}" if value >= NUMBERED else "" for value in values]
        axes.bar_label(bars, shown, label_type="center", fontsize=7, color="white" if kind in DARK else "black")
        begin += values
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("questions (%)")
    axes.tick_params(axis="y", length=0)


def shares_of(one: Series) -> Shares:
    """Return of each task, in percent of its questions, how many are what at the end that were right once; mean over runs.

    Raises:
        ClbenchError: the runs have other tasks than one another, or their answers tell nothing of forgetting.
    """
    found: list[dict[str, NUMBERS]] = []
    for record, answers in zip(one.records, one.answers, strict=True):
        tasks = explain(record, read_answers(record, answers)).tasks
        counts = {task.task: [task.right - len(task.lost), *(task.count(kind) for kind in KINDS)] for task in tasks}
        found.append({task.task: 100 * np.array(counts[task.task]) / task.asked for task in tasks})
    if any(run.keys() != found[0].keys() for run in found):
        raise ClbenchError(
            f"the runs of {one.label} have other tasks than one another; choose those of one stream with --stream"
        )
    means = {name: np.mean([run[name] for run in found], 0) for name in found[0]}
    return {name: dict(zip(COLOURS, map(float, values), strict=True)) for name, values in means.items()}
