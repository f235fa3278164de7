"""A grid: methods x options x streams x seeds x settings as one value, read from TOML, that expands to the specs of its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from clbench.data.own_streams import check_metrics, own_data
from clbench.data.rows import parse_toml, read_text
from clbench.data.streams import find_streams
from clbench.data.tasks import Stream
from clbench.discovery import Plugins
from clbench.errors import ClbenchError, unknown
from clbench.settings import Settings, list_settings
from clbench.spec import RunSpec, make_spec
from clbench.tracking import Tracking

SHAPE = ("method", "stream", "order", "seed")  # what an exclusion may name beside options and settings
NEW_GRID = """\
# A grid of runs. `clbench sweep THIS.toml --dry-run` counts them, `clbench sweep THIS.toml` makes those that are missing.
# A list of values is an axis: every combination of the axes is a run.

methods = ["lorareplay", "rkif"]
# A method with options, and with settings of its own:
# methods = ["lorareplay", { name = "ewc", options = { strength = [10, 100] }, settings = { learning_rate = 1e-4 } }]

orders = [4]            # numbers of orders, 1-9; or:
# streams = ["long:1", "standard", "dbpedia,amazon,yahoo", "my_stream.toml"]   # a family (standard) is all its streams
seeds = 3               # how many (1, 2, 3), or which: [1, 2, 5]

# preset = "t5-large"   # a named set of settings (`clbench presets`)
# plugins = ["my_method.py"]
# track = ["tensorboard"]  # or wandb, mlflow, trackio: show the runs there, too

[settings]              # any setting of `clbench run`, with underscores
epochs = 1
# learning_rate = [3e-4, 1e-3]

# [[exclude]]           # leave out the runs that fit all lines of a block: method, stream, order, seed, options, settings
# method = "rkif"
# learning_rate = 1e-3
"""


@dataclass(frozen=True)
class MethodAxes:
    """A method of a grid, with values of its options, and of settings for it alone; a list of values is an axis."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Runs as axes. `streams` are names, families, order numbers or files; in options and settings a list of values is an axis.

    Each of `exclude` maps names (method, stream, order, seed, an option, a setting) to a value or several: a run that fits all of
    one mapping is left out. `track` are trackers, and `name` is what the runs are grouped by in them.
    """

    methods: Sequence[MethodAxes]
    streams: Sequence[str] = (Settings.stream,)
    seeds: Sequence[int] = (1,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    exclude: Sequence[Mapping[str, Any]] = ()
    plugins: Sequence[str] = ()
    track: Sequence[str] = ()
    name: str = "grid"

    def expand(self, plugins: Plugins) -> list[RunSpec]:
        """Return the runs, each once; those on the same data stand together.

        Raises:
            ClbenchError: a method, option, stream or setting is unknown or wrong, or an exclusion fits no run.
        """
        streams = list(dict.fromkeys(stream for name in self.streams for stream in find_streams(name)))
        for stream in streams:
            check_metrics(stream, plugins.metrics)
        found: dict[RunSpec, None] = {}
        fitted: set[int] = set()
        for stream, seed in product(streams, self.seeds):
            for spec in self._runs_on(stream, seed, plugins):
                fits = {number for number, one in enumerate(self.exclude) if _fits(spec, stream, one)}
                fitted |= fits
                if not fits:
                    found[spec] = None
        self._check_exclusions(fitted, plugins)
        return list(found)

    @property
    def tracking(self) -> Tracking:
        """The trackers, and the group of the runs in them.

        Raises:
            ClbenchError: there is no such tracker, or it is not installed.
        """
        return Tracking(tuple(dict.fromkeys(self.track)), self.name)

    def _runs_on(self, stream: Stream, seed: int, plugins: Plugins) -> Iterator[RunSpec]:
        for axes in self.methods:
            method = plugins.method(axes.name)
            for options, given in product(
                _points(axes.options, f"options of method '{axes.name}'"),
                _points({**self.settings, **axes.settings}, "settings"),
            ):
                values = {**given, **own_data(stream, given), "stream": stream.name, "seed": seed}
                yield make_spec(method, options, values, self.preset)

    def _check_exclusions(self, fitted: Collection[int], plugins: Plugins) -> None:
        known = {name for axes in self.methods for name in plugins.method(axes.name).options}
        for number, one in enumerate(self.exclude):
            for name in one:
                if name not in {*SHAPE, *known, *list_settings()}:
                    raise unknown(f"[[exclude]] {number + 1}:", name, [*SHAPE, *sorted(known), *list_settings()])
            if number not in fitted:
                raise ClbenchError(f"[[exclude]] {number + 1} fits no run of the grid: {dict(one)}")


def _points(axes: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Return every combination of the axes."""
    lists = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in axes.items()}
    for name, values in lists.items():
        if not values:
            raise ClbenchError(f"{place}: '{name}' is an empty list; give values, or leave it out")
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def _fits(spec: RunSpec, stream: Stream, exclusion: Mapping[str, Any]) -> bool:
    shape = {"method": spec.method, "stream": stream.name, "order": stream.order, "seed": spec.seed}
    values = {**spec.recorded_settings, **spec.options, **shape}
    return all(
        name in values and values[name] in (wanted if isinstance(wanted, (list, tuple)) else [wanted])
        for name, wanted in exclusion.items()
    )


class _MethodTable(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}


class _GridTable(msgspec.Struct, forbid_unknown_fields=True):
    """The file's form."""

    methods: list[str | _MethodTable]
    orders: list[int] = []
    streams: list[str] = []
    seeds: int | list[int] = 1
    settings: dict[str, Any] = {}
    preset: str | None = None
    exclude: list[dict[str, Any]] = []
    plugins: list[str] = []
    track: list[str] = []


def read_grid(path: Path) -> Grid:
    """Read a grid from a TOML file (`NEW_GRID` is a commented one).

    Raises:
        ClbenchError: no such file, no TOML, or no grid.
    """
    try:
        content = parse_toml(read_text(path))
    except FileNotFoundError:
        raise ClbenchError(f"no grid '{path}'; `clbench sweep new {path}` writes one to fill in") from None
    except (OSError, ValueError) as error:
        raise ClbenchError(f"grid '{path}': {' '.join(str(error).split())}") from None
    return replace(make_grid(content, f"grid '{path}'"), name=path.stem)


def make_grid(content: Mapping[str, Any], place: str = "the grid") -> Grid:
    """Return a grid from what its file says, as plain values; `place` names it in an error.

    Raises:
        ClbenchError: an entry is unknown, missing or of a wrong type.
    """
    for name in content:
        if name not in _GridTable.__struct_fields__:
            raise unknown(f"{place}: entry", name, _GridTable.__struct_fields__)
    try:
        table = msgspec.convert(content, _GridTable)
    except msgspec.ValidationError as error:
        raise ClbenchError(f"{place}: {error}") from None
    if not table.methods:
        raise ClbenchError(f"{place}: `methods` is empty; name a method (`clbench methods`)")
    if table.orders and table.streams:
        raise ClbenchError(f"{place}: give `orders` or `streams`, not both")
    methods = [
        MethodAxes(one) if isinstance(one, str) else MethodAxes(one.name, one.options, one.settings)
        for one in table.methods
    ]
    return Grid(
        methods=methods,
        streams=[str(order) for order in table.orders] or table.streams or [Settings.stream],
        seeds=_seeds(table.seeds, place),
        settings=table.settings,
        preset=table.preset,
        exclude=table.exclude,
        plugins=table.plugins,
        track=table.track,
    )


def _seeds(given: int | list[int], place: str) -> list[int]:
    seeds = given if isinstance(given, list) else list(range(1, given + 1))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ClbenchError(f"{place}: seeds takes how many (3) or which ([1, 2, 5]), not {given}")
    return seeds
