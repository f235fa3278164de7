"""The picture of what `clbench tune` did: the score of each trial, the best so far, and the importance of what was searched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clbench.errors import ClbenchError
from clbench.options import options_text
from clbench.reports.plots.style import CHARACTER, SMALL, new_figure, style
from clbench.tuned import Trial, Tuned

LOOKS: dict[str, dict[str, Any]] = {  # of a trial, by how it ended
    "complete": {"marker": "o", "color": "#00204d", "label": "complete"},
    "pruned": {"marker": "x", "color": "#7c7b78", "label": "ended early"},
    "failed": {"marker": "v", "color": "#a0522d", "label": "not finite"},
}


def draw_trials(found: Sequence[Tuned]) -> Figure:
    """Draw each method in a line: on the left its trials, on the right what was searched.

    Raises:
        ClbenchError: there is nothing to draw.
    """
    if not found:
        raise ClbenchError("nothing was tuned")
    with style():
        names = max((len(name) for one in found for name in one.importance), default=0)
        figure = new_figure(7.5 + CHARACTER * names, 1.9 * len(found) + 0.3)
        panels = figure.subplots(len(found), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), one in zip(panels, found, strict=True):
            _draw_scores(left, one)
            _draw_importance(right, one)
        looks = panels[0][0].get_legend_handles_labels()
        figure.legend(*looks, loc="outside lower center", ncols=len(LOOKS) + 1, frameon=False, fontsize=SMALL)
        panels[-1][0].set_xlabel("trial")
        panels[-1][1].set_xlabel("importance (share of the differences in score)")
    return figure


def _draw_scores(axes: Axes, one: Tuned) -> None:
    given = options_text(one.fixed)
    axes.set_title(f"{one.method}{f' ({given})' if given else ''}: {one.note}")
    axes.set_ylabel(f"{one.budget.objective} (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for state, look in LOOKS.items():
        ended = {
            trial.number + 1: trial.score for trial in one.history if trial.state == state and trial.score is not None
        }
        axes.plot(list(ended), list(ended.values()), linestyle="", **look)
    best = list(accumulate((_counted(trial) for trial in one.history), max))
    axes.step(
        range(1, len(best) + 1), best, where="post", color="#b1a570", linewidth=1.2, label="best so far", zorder=0
    )


def _counted(trial: Trial) -> float:
    return trial.score if trial.state == "complete" and trial.score is not None else float("-inf")


def _draw_importance(axes: Axes, one: Tuned) -> None:
    names = sorted(one.importance, key=lambda name: one.importance[name])
    axes.barh(range(len(names)), [one.importance[name] for name in names], color="#575d6d")
    axes.set_yticks(range(len(names)), [name.removeprefix("option.") for name in names])
    axes.set_xlim(0, 1)
    if not names:
        axes.text(0.5, 0.5, "too few trials", ha="center", transform=axes.transAxes)
