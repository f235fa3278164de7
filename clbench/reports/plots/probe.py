"""The picture of the probes: what a model loses beside its tasks, a panel a probe, a line a series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clbench.errors import ClbenchError, ClbenchWarning
from clbench.records.record import ProbeValues
from clbench.reports.plots.series import Series, short_labels
from clbench.reports.plots.style import (
    CHARACTER,
    COLOURS,
    NUMBERS,
    WIDEST,
    End,
    colour,
    grid_shape,
    label_ends,
    line_style,
    new_figure,
    note,
    panels_of,
    spread,
    to_numbers,
    wrapped,
)

HEIGHT, LEAST = 1.7, 2.0  # inches of a panel
Key = tuple[str, str, str]  # a probe's name, its objective, its digest


def probe(series: Sequence[Series]) -> Figure:
    """Draw each probe before the first task and after each: perplexity (the lower the better), or the score of questions.

    Series whose runs measured no probe are left out with a warning.

    Raises:
        ClbenchError: none did, or the runs have more or fewer tasks than one another.
    """
    kept = [one for one in series if all(record.probes for record in one.records)]
    if not kept:
        raise ClbenchError("no run measured a probe; a run does with --probe")
    if left := [one.label for one in series if one not in kept]:
        warnings.warn(f"left out, since they measured no probe: {', '.join(left)}", ClbenchWarning, stacklevel=2)
    if len({len(record.tasks) for one in kept for record in one.records}) > 1:
        raise ClbenchError(
            "the runs have more or fewer tasks than one another; choose those of one stream with --stream"
        )
    keys = dict.fromkeys(key_of(found) for one in kept for record in one.records for found in record.probes)
    labels = [wrapped(label, 2.5) for label in short_labels(kept)]
    room = CHARACTER * 0.9 * max(len(line) for label in labels[: len(COLOURS)] for line in label.split("\n")) + 0.9
    rows, columns = grid_shape(len(keys), max(1, int(WIDEST / (LEAST + room))))
    figure = new_figure(columns * (LEAST + room) + 0.3, rows * (HEIGHT + 0.6) + 0.2)
    for axes, key in zip(panels_of(figure, len(keys), columns), keys, strict=True):
        ends = _draw_lines(axes, kept, labels, key)
        label_ends(axes, ends, HEIGHT)
        axes.set_title(key[0])
        axes.set_xlabel("tasks learned")
        axes.set_ylabel("score (%)" if key[1] == "answers" else "perplexity")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.grid(axis="y")
    several = any(len(one.records) > 1 for one in kept)
    grey = f"grey: {', '.join(short_labels(kept)[len(COLOURS) :])}" if len(kept) > len(COLOURS) else ""
    objectives = ", ".join(f"{key[0]} of {key[1]}" for key in keys if key[1] != "answers")
    said = f"perplexity: {objectives}" if objectives else ""
    note(figure, said, "band: ± standard deviation over runs" if several else "", grey)
    return figure


def key_of(found: ProbeValues) -> Key:
    """Return what two measurements must share to stand in one panel."""
    return found.name, found.objective, found.digest


def _draw_lines(axes: Axes, series: Sequence[Series], labels: Sequence[str], key: Key) -> list[End]:
    """Draw a probe over time, a line a series that measured it, and return the ends of those that have a colour."""
    ends = []
    for number, (one, label) in enumerate(zip(series, labels, strict=True)):
        found = [[probe.values for probe in record.probes if key_of(probe) == key] for record in one.records]
        if not all(found):
            continue
        runs = to_numbers([values[0] for values in found])
        known = np.nonzero(~np.isnan(runs).any(0))[0]
        if not len(known):
            continue
        mean: NUMBERS = runs[:, known].mean(0)
        error = spread(runs[:, known])
        axes.plot(known, mean, **line_style(number))
        if number >= len(COLOURS):
            continue
        ends.append(End(known[-1], float(mean[-1]), label, colour(number)))
        if not np.isnan(error).any():
            axes.fill_between(known, mean - error, mean + error, color=colour(number), alpha=0.13, linewidth=0)
    return ends
