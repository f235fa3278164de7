"""A study: the trials by which `clbench tune` chooses a method's settings and options, as a value, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clbench.discovery import Method
from clbench.errors import ClbenchError
from clbench.options import Option, Search, options_text
from clbench.records.files import RunFiles, slug
from clbench.running.opening import RunOpener
from clbench.settings import list_settings
from clbench.spec import RunSpec, Value
from clbench.tuned import TUNED_SETTINGS, read_tuned, texts

OPTION = "option."  # before the name of a method's option, to tell it from a setting's


@dataclass(frozen=True)
class StudySpec(RunSpec):
    """The run that each trial changes, and how it is judged. Its settings score validation rows; its seed is not used.

    `fixed` are the options that were given, and so are not searched; `share` tells workers apart that share one study.
    """

    fixed: tuple[tuple[str, Value], ...] = ()
    preset: str | None = None
    order: int | None = None
    seeds: tuple[int, ...] = (11,)
    trials: int = 20
    objective: Literal["op", "op+bwt"] = "op"
    output: str = "tuned.toml"
    share: int = 0

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.seeds, self.trials, self.objective, self.output, self.share))

    def __str__(self) -> str:
        given = options_text(dict(self.fixed))
        return f"tune {self.method}{f' ({given})' if given else ''} on {self.place}"

    @property
    def place(self) -> str:
        """The stream as the leaderboard names it: 'order 2'."""
        return self.stream if self.order is None else f"order {self.order}"

    @property
    def note(self) -> str:
        """What a record says that was made with what was found."""
        return f"{self.trials} trials on {self.place}"

    def run(self, options: Mapping[str, Value], seed: int, **settings: Any) -> RunSpec:
        """Return a run of a trial."""
        return RunSpec(self.method, options, replace(self.settings, seed=seed, **settings))


@dataclass(frozen=True)
class Axis:
    """One thing that is searched: a setting, or an option of the method; and its value without a search."""

    name: str
    option: Option
    search: Search
    default: Value

    @property
    def holds_default(self) -> bool:
        """Whether the search can come upon the default: not where it is 'none', or 0 on a logarithmic scale."""
        if self.search.choices:
            return True
        number = isinstance(self.default, (int, float)) and not isinstance(self.default, bool)
        return number and (not self.search.log or float(str(self.default)) > 0)

    @property
    def choices(self) -> list[Value]:
        """The values to choose from, the default among them."""
        return list(dict.fromkeys([*self.search.choices, self.default]))

    @property
    def range(self) -> tuple[float, float]:
        """The ends of a range, the default within it."""
        ends = [float(str(end)) for end in (self.search.low, self.search.high)]
        if self.holds_default:
            ends.append(float(str(self.default)))
        return min(ends), max(ends)


def search_space(method: Method, spec: StudySpec) -> list[Axis]:
    """Return what is searched: learning rate and epochs, and the options that declare where to look, those with conditions last.

    An option that was given is not searched, nor one that has no effect beside what is not searched. Neither is the size of a
    memory: it is a budget, the same for every method. Where a method has a learning rate of its own, the setting has no effect.
    """
    about, fixed = method.about, dict(spec.fixed)
    memory = about.memory.option if about.memory is not None else None
    own_rate = about.learning_rate is not None and spec.options[about.learning_rate] is not None
    axes = [
        (name, list_settings()[name], vars(spec.settings)[name])
        for name in TUNED_SETTINGS
        if not (own_rate and name == "learning_rate")
    ]
    options = [one for one in method.options.values() if one.search and one.name not in (*fixed, memory)]
    names = {option.name for option in options}
    options = [one for one in options if (found := one.obstacle(spec.options)) is None or found[1] in names]
    options.sort(key=lambda option: len(option.conditions))
    axes += [(f"{OPTION}{option.name}", option, spec.options[option.name]) for option in options]
    return [Axis(name, one, one.search, default) for name, one, default in axes if one.search is not None]


@dataclass(frozen=True)
class StudyFiles(RunFiles):
    """The files of a study: the database of its trials, NAME.sqlite3, in place of a checkpoint, and the tuned preset."""

    output: Path = Path("tuned.toml")
    trials: int = 0

    @property
    def record(self) -> Path:
        """The tuned preset, which holds other methods, too."""
        return self.output

    @property
    def checkpoint(self) -> Path:
        """The trials so far."""
        return self.folder / f"{self.name}.sqlite3"

    def are_complete(self, with_adapter: bool, with_maps: bool) -> bool:
        """Return whether the tuned preset has the study with just as many trials: fewer are the first ones of those made."""
        if not self.output.exists():
            return False
        found = (one for one in read_tuned(self.output) if one.study == self.name)
        return any(one.budget.trials == self.trials for one in found)


def open_study(spec: StudySpec, opener: RunOpener) -> StudyFiles:
    """Return the files of a study; another search space, stream, seed, objective, source or data makes another one.

    Raises:
        ClbenchError: as `RunOpener.open`, or there is nothing to search.
    """
    axes = search_space(opener.plugins.method(spec.method), spec)
    if not axes:
        raise ClbenchError(f"method '{spec.method}' has nothing to search")
    identity = opener.open(spec.run(spec.options, spec.seeds[0])).identity
    space = [(axis.name, *map(str, axis.choices if axis.search.choices else axis.range)) for axis in axes]
    parts = [identity, space, spec.seeds, spec.objective, texts(dict(spec.fixed))]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    name = f"tune_{slug(spec.stream)}_{slug(spec.method)}_{slug(spec.settings.backbone)}_{digest}"
    return StudyFiles(opener.results, name, Path(spec.output), spec.trials)


def shares(spec: StudySpec, count: int) -> Iterator[StudySpec]:
    """Yield a study once for each of the workers that share it."""
    return (replace(spec, share=number) for number in range(count))
