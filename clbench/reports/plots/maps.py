"""Pictures of the maps of a run: task vector and importance by layer and module, and how importance shifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from clbench.errors import ClbenchError
from clbench.records.maps import QUARTERS, Maps, Numbers, TensorPlace, read_maps
from clbench.reports.plots.style import (
    CHARACTER,
    NUMBERS,
    SMALL,
    grid_shape,
    heat_map,
    ink_on,
    new_figure,
    note,
    panels_of,
)

if TYPE_CHECKING:
    from clbench.reports.plots.series import Series

GROWN, SHRUNK = 1.5, 0.5  # factors from which a change is marked
MOST = 5  # panels beside one another
DEPTH = 1000  # the largest value over the smallest that has a colour of its own


@dataclass(frozen=True)
class Panel:
    """One heat map: values by layer and module; what grew or shrank against `before` is marked."""

    title: str
    values: NUMBERS
    before: NUMBERS | None = None
    measure: str = "importance: mean |w g|"


def maps(series: Sequence[Series]) -> Figure:
    """Draw the last task's task vector and importance, and the first task's importance before and after the last one."""
    panels: list[Panel] = []
    everything = all_maps(series)
    for label, found in everything:
        new, name = len(found.tasks) - 1, found.tasks[-1]
        end = found.point(new, 1)
        panels += [
            Panel(
                f"{label}task vector of {name}",
                by_layer(found, found.task_vector[end]),
                None,
                "task vector: mean |w - w_0|",
            ),
            Panel(f"{label}importance of {name}", by_layer(found, found.importance[end, new])),
        ]
        if new > 0:
            before = by_layer(found, found.importance[found.point(new, 0), 0])
            after = by_layer(found, found.importance[end, 0])
            panels.append(Panel(f"{label}importance of {found.tasks[0]},\nbefore {name}", before))
            panels.append(Panel(f"{label}importance of {found.tasks[0]},\nafter {name}", after, before))
    return draw_panels(panels, everything[0][1])


def shift(series: Sequence[Series]) -> Figure:
    """Draw the importance of the first task after each task; what is the same in several runs once."""
    panels: list[Panel] = []
    everything = all_maps(series)
    for label, found in everything:
        need_two_tasks(found)
        tables = [by_layer(found, found.importance[found.point(task, 1), 0]) for task in range(len(found.tasks))]
        for number, table in enumerate(tables):
            title = f"{label}{found.tasks[0]},\n" + (f"after {found.tasks[number]}" if number else "once learned")
            if not any(panel.title == title and np.array_equal(panel.values, table, True) for panel in panels):
                panels.append(Panel(title, table, tables[0] if number else None))
    return draw_panels(panels, everything[0][1])


def stages(series: Sequence[Series]) -> Figure:
    """Draw the importance of the first task while the last one is learned."""
    panels: list[Panel] = []
    everything = all_maps(series)
    for label, found in everything:
        need_two_tasks(found)
        new = len(found.tasks) - 1
        parts = [quarter / QUARTERS for quarter in range(QUARTERS + 1)]
        tables = [by_layer(found, found.importance[found.point(new, part), 0]) for part in parts]
        for part, table in zip(parts, tables, strict=True):
            title = f"{label}{found.tasks[0]},\n{part:.0%} of {found.tasks[-1]}"
            panels.append(Panel(title, table, tables[0] if part else None))
    return draw_panels(panels, everything[0][1])


def all_maps(series: Sequence[Series]) -> list[tuple[str, Maps]]:
    """Return the maps of each series, with the method's name and a colon where they are of several methods.

    Raises:
        ClbenchError: they are of different models or trained weights.
    """
    several = len({one.label for one in series}) > 1
    found = [(f"{one.label}: " if several else "", mean_maps(one)) for one in series]
    for _, other in found:
        if layout_of(other) != layout_of(found[0][1]):
            raise ClbenchError(f"the maps of '{other.name}' are of other modules than those of '{found[0][1].name}'")
    return found


def mean_maps(series: Series) -> Maps:
    """Return the mean of the runs' maps.

    Raises:
        ClbenchError: a run has none, or they are of different streams or models.
    """
    found = [read_maps(path) for path in series.maps]
    first = found[0]
    for other in found[1:]:
        if (other.tasks, other.tensors, other.points) != (first.tasks, first.tensors, first.points):
            raise ClbenchError(f"the maps of '{other.name}' are of other tasks or weights than those of '{first.name}'")
    importance = np.mean([one.importance for one in found], axis=0)
    task_vector = np.mean([one.task_vector for one in found], axis=0)
    return Maps(first.name, first.rows, first.tasks, first.tensors, first.points, importance, task_vector)


def need_two_tasks(found: Maps) -> None:
    """Check that the maps cover two tasks or more.

    Raises:
        ClbenchError: they cover a single task.
    """
    if len(found.tasks) < 2:
        raise ClbenchError(f"maps of '{found.name}': a single task shows no shift; log a run of two or more")


def layout_of(found: Maps) -> tuple[list[str], list[str]]:
    """Return the layers and the modules of the maps, in the model's order."""
    places = [TensorPlace.of(name) for name in found.tensors]
    return list(dict.fromkeys(p.layer for p in places)), list(dict.fromkeys(p.module for p in places))


def by_layer(found: Maps, values: Numbers) -> NUMBERS:
    """Return values (tensors,) as means over the weights of each module, shape (layers, modules); nan where there is none."""
    layers, modules = layout_of(found)
    sums, sizes = np.zeros((2, len(layers), len(modules)))
    for (name, size), value in zip(found.tensors.items(), values, strict=True):
        place = TensorPlace.of(name)
        position = layers.index(place.layer), modules.index(place.module)
        sums[position] += size * value
        sizes[position] += size
    means: NUMBERS = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
    return means


def draw_panels(panels: Sequence[Panel], found: Maps) -> Figure:
    """Draw heat maps in a grid; those of one measure share a scale, a logarithmic one."""
    layers, modules = layout_of(found)
    names = [short(module) for module in modules]
    width = max(1.7, 0.17 * len(names)) + 0.15
    height = max(1.2, 0.17 * len(layers)) + 0.5
    labels = CHARACTER * max(map(len, names)) + 0.2, CHARACTER * max(map(len, layers)) + 0.3
    measures = list(dict.fromkeys(panel.measure for panel in panels))
    most = MOST if len(measures) == 1 else 4
    rows, columns = grid_shape(len(panels), most)
    figure = new_figure(columns * width + labels[1] + 0.8 * len(measures), rows * height + labels[0])
    drawn = panels_of(figure, len(panels), most, sharex=True, sharey=True)
    for measure in measures[::-1]:
        chosen = [(axes, panel) for axes, panel in zip(drawn, panels, strict=True) if panel.measure == measure]
        top = max(float(np.nanmax(panel.values)) for _, panel in chosen) or 1.0
        for axes, panel in chosen:
            image = heat_map(axes, panel.values, layers, names, norm=LogNorm(top / DEPTH, top, clip=True))
            axes.set_title(panel.title, fontsize=8)
            axes.tick_params(labelsize=SMALL)
            if panel.before is not None:
                mark_changes(axes, image, panel.values, panel.before)
        bar = figure.colorbar(image, ax=drawn, label=measure, aspect=max(15, rows * height / 0.2), format="%.0e")
        bar.ax.tick_params(labelsize=SMALL)
    if any(panel.before is not None for panel in panels):
        note(figure, "+ grown, - shrunk by half or more")
    return figure


def mark_changes(axes: Axes, image: Any, values: NUMBERS, before: NUMBERS) -> None:
    """Write + where a value grew, - where it shrank by the factors from which it counts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values / before
    for sign, where in (("+", ratio >= GROWN), ("-", ratio <= SHRUNK)):
        for i, j in zip(*np.nonzero(where), strict=True):
            ink = ink_on(image, values[i, j])
            axes.text(j, i, sign, ha="center", va="center", color=ink, fontsize=SMALL, fontweight="bold")


def short(module: str) -> str:
    """Return a module's name as it fits below a column."""
    words = {
        "SelfAttention": "self",
        "EncDecAttention": "cross",
        "DenseReluDense": "ffn",
        "self_attn": "self",
        "mlp": "ffn",
    }
    return " ".join(words.get(part, part) for part in module.split("."))
