"""What `clbench tune` found, as a value and as a TOML file: settings and options by method, each with the history of its trials.

Such a file is a preset: `clbench run --preset FILE.toml`, `preset = "FILE.toml"` in a grid.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from clbench.atomic import make_folder, write_atomically
from clbench.errors import ClbenchError, unknown
from clbench.options import format_value, options_text

Values = dict[str, Any]
TUNED_SETTINGS = (
    "learning_rate",
    "epochs",
)  # those that `clbench tune` may choose; of a method's options: all that it declares


class Trial(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One trial: what was tried, and what came of it.

    `score` is the objective in percent, of a pruned trial what it had reached; `reached` is the mean score on the tasks so far
    after each task; `seconds` are those of learning and answering, `steps` the optimizer steps, both over all seeds.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    score: float | None = None
    reached: tuple[float, ...] = ()
    seconds: float = 0.0
    steps: int = 0
    values: Values = {}
    note: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every method is given: trials, stream, seeds and rows, and what they cost in seconds and optimizer steps."""

    trials: int
    stream: str
    order: int | None = None
    seeds: tuple[int, ...]
    objective: Literal["op", "op+bwt"] = "op"
    validation: int
    limit_train: int | None = None
    data: str = "toy"
    backbone: str = "mini"
    seconds: float = 0.0
    steps: int = 0
    protocol_version: int = 0


class Tuned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best of a method's trials: settings and options that were searched, on top of a preset.

    `study` names the database of the trials; `fixed` are the options that were given and not searched; `importance` is each
    searched name's share in the differences of the score (PED-ANOVA, as Optuna computes it).
    """

    method: str
    note: str
    study: str
    fixed: Values = {}
    preset: str | None = None
    score: float | None = None
    settings: Values = {}
    options: Values = {}
    budget: Budget
    importance: dict[str, float] = {}
    history: tuple[Trial, ...] = ()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tuned: list[Tuned]


def read_tuned(path: Path) -> list[Tuned]:
    """Return what was tuned, by method.

    Raises:
        ClbenchError: no such file, no TOML, or not one that `clbench tune` wrote.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File).tuned
    except FileNotFoundError:
        raise ClbenchError(f"no tuned preset '{path}'; `clbench tune --output {path}` makes one") from None
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise ClbenchError(f"tuned preset '{path}': {' '.join(str(error).split())}") from None


def shipped_presets() -> dict[Path, Path]:
    """Return the tuned presets that come with clbench, `tasks/tuned/NAME.toml` each, and where they lie."""
    folder = Path(str(files("clbench.tasks").joinpath("tuned")))
    return {Path("tasks", "tuned", file.name): file for file in sorted(folder.glob("*.toml"))}


def find_tuned(path: Path, method: str, options: Mapping[str, Any]) -> Tuned:
    """Return what was tuned for a method with these options; of several the one that fixes most of them.

    Where there is no such file, one that comes with clbench may have the name.

    Raises:
        ClbenchError: the file has nothing for it.
    """
    found = read_tuned(path if path.exists() else shipped_presets().get(path, path))
    of_method = [one for one in found if one.method == method]
    if not of_method:
        raise unknown(f"method in tuned preset '{path}':", method, dict.fromkeys(one.method for one in found))
    given = {name: format_value(value) for name, value in options.items()}
    fitting = [one for one in of_method if texts(one.fixed).items() <= given.items()]
    if not fitting:
        known = "; ".join(options_text(one.fixed) for one in of_method)
        raise ClbenchError(f"tuned preset '{path}' has method '{method}' only with {known}")
    return max(fitting, key=lambda one: len(one.fixed))


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as the texts that stand for them on the command line, as they are compared."""
    return {name: format_value(value) for name, value in values.items()}


def write_tuned(path: Path, found: Tuned) -> None:
    """Write what was found into a tuned preset, in the place of what it had of the same method and given options.

    Raises:
        ClbenchError: it cannot be written, or what is there is none.
    """
    from filelock import FileLock  # of the extra `tune`, as is tomlkit

    make_folder(path.absolute().parent)
    with FileLock(path.with_name(f".{path.name}.lock")):
        others = read_tuned(path) if path.exists() else []
        same = (found.method, texts(found.fixed))
        kept = [one for one in others if (one.method, texts(one.fixed)) != same]
        kept = sorted([*kept, found], key=lambda one: (one.method, json.dumps(texts(one.fixed))))
        content = "\n".join(_table(_without_none(msgspec.to_builtins(one))) for one in kept)
        head = '# Written by `clbench tune`. A preset: clbench run --preset THIS.toml; in a grid: preset = "THIS.toml".\n\n'
        write_atomically(path, lambda temporary: temporary.write_text(head + content, "utf-8"))


def _table(entry: Mapping[str, Any]) -> str:
    """Return what was tuned of one method as TOML: a line for each value, and for each trial."""
    import tomlkit

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        inline = tomlkit.inline_table()
        inline.update({name: plain(inside) for name, inside in value.items()})
        return inline

    history = tomlkit.array().multiline(True)
    history.extend(plain(trial) for trial in entry["history"])
    values = {name: plain(value) for name, value in entry.items()}
    return "[[tuned]]\n" + tomlkit.dumps({**values, "history": history})


def _without_none(value: Any, in_place: str | None = None) -> Any:
    """Return a value as TOML can say it: none as the text 'none' among options, and left out elsewhere."""
    if isinstance(value, dict):
        inside = {name: "none" if name in ("values", "options", "settings", "fixed") else in_place for name in value}
        made = {name: _without_none(one, inside[name]) for name, one in value.items()}
        return {name: one for name, one in made.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(one, in_place) for one in value]
    return in_place if value is None else value
