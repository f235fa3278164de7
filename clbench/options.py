"""Options: what the keyword parameters of a class or function declare, and the check of the values that they are given.

One declaration serves the harness's settings and the methods' options, and carries command line, table, check, record and search:

    strength: Annotated[float, "pull towards the old weights", Ge(0), Search(1e-2, 1e4, log=True)] = 100.0

- The type: bool, int, float, str, `int | float`, `Literal[...]`, each also `| None`. Without annotation it is the default's.
- The text is the meaning.
- The range is written with `annotated_types`: Ge, Gt, Le, Lt, Interval, MultipleOf, MinLen, MaxLen, Len. Numbers are finite,
  unless the declaration holds `NonFinite()`; a method's whole numbers end somewhere (`with_upper_bounds`).
- `Search` says where to look for a good value. A Literal of numbers and a bool need none: all values are tried.
- `OnlyIf(form="online")` and `Unless(merge="all")` say when the option has any effect. Where it has none, giving it is refused,
  and it keeps its default, so that it makes no other run.

msgspec converts and checks: `Settings` and methods, from the command line, TOML, JSON and Python alike.
"""

import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import msgspec

from clbench.errors import ClbenchError, unknown

REQUIRED = inspect.Parameter.empty
USABLE = "bool, int, float, str, int | float or Literal, each also with None"
MOST_ALWAYS = 10_000  # what a whole number of a method's may always be, unless its declaration says less
MANY = 100  # times the largest number that its declaration names
SHOWN = 60  # characters of a wrong value that a message repeats
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
_LENGTHS = ("min_length", "max_length")


@dataclass(frozen=True, init=False)
class Search:
    """Where to look for an option's value: between two numbers, evenly or on a logarithmic scale, or among choices."""

    low: float | None
    high: float | None
    log: bool
    choices: tuple[Any, ...]

    def __init__(
        self, low: float | None = None, high: float | None = None, *, log: bool = False, choices: Collection[Any] = ()
    ) -> None:
        for name, value in {"low": low, "high": high, "log": log, "choices": tuple(choices)}.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(format_value, self.choices))
        return f"{format_value(self.low)} to {format_value(self.high)}" + (", log" if self.log else "")


@dataclass(frozen=True, init=False)
class OnlyIf:
    """The option has an effect only where each named option has the value, or one of the values."""

    values: Mapping[str, tuple[Any, ...]]

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "values", {name: _as_tuple(value) for name, value in values.items()})

    def obstacle(self, chosen: Mapping[str, Any]) -> str | None:
        """Return the name of an option whose value takes the effect away, if there is one."""
        return next((name for name, wanted in self.values.items() if not _is_among(chosen[name], wanted)), None)

    def advice(self, name: str) -> str:
        """Return what to do about an obstacle."""
        return f"set {name}={_alternatives(self.values[name])}"

    def __str__(self) -> str:
        return "only with " + " and ".join(f"{name}={_alternatives(wanted)}" for name, wanted in self.values.items())


@dataclass(frozen=True, init=False)
class Unless:
    """The option has no effect where a named option has the value, or one of the values."""

    values: Mapping[str, tuple[Any, ...]]

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "values", {name: _as_tuple(value) for name, value in values.items()})

    def obstacle(self, chosen: Mapping[str, Any]) -> str | None:
        """Return the name of an option whose value takes the effect away, if there is one."""
        return next((name for name, unwanted in self.values.items() if _is_among(chosen[name], unwanted)), None)

    def advice(self, name: str) -> str:
        """Return what to do about an obstacle."""
        return f"set another {name}"

    def __str__(self) -> str:
        return "not with " + " or ".join(f"{name}={_alternatives(unwanted)}" for name, unwanted in self.values.items())


@dataclass(frozen=True)
class NonFinite:
    """Infinity and NaN are values of the option, too."""


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list, set, frozenset)) else (value,)


def _is_among(value: Any, values: Collection[Any]) -> bool:
    """Say whether a value is one of several; unlike `in` it tells True from 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _alternatives(values: Collection[Any]) -> str:
    *most, last = map(format_value, values)
    return f"{', '.join(most)} or {last}" if most else last


@dataclass(frozen=True)
class Option:
    """One keyword parameter.

    `types` are those of bool, int, float and str that it takes beside its `choices`, a Literal's values; `limits` are its range,
    as `msgspec.Meta` takes it; `default` is `REQUIRED` where it has none.
    """

    name: str
    types: tuple[type, ...]
    choices: tuple[Any, ...] = ()
    optional: bool = False
    default: Any = REQUIRED
    meaning: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    finite: bool = True
    conditions: tuple[OnlyIf | Unless, ...] = ()
    declared_search: Search | None = None

    @property
    def type_name(self) -> str:
        """The type as shown to a user, for example 'float' or 'sum|max' or 'int or none'."""
        name = "|".join([*map(format_value, self.choices), *(kind.__name__ for kind in self.types)])
        return f"{name} or none" if self.optional else name

    @property
    def default_text(self) -> str:
        """The default as shown to a user."""
        return "(required)" if self.default is REQUIRED else format_value(self.default)

    @property
    def range_text(self) -> str:
        """The range as shown to a user, for example '> 0, <= 1'; empty for none."""
        bounds = [f"{sign} {format_value(self.limits[key])}" for key, sign in _BOUNDS.items() if key in self.limits]
        return ", ".join(bounds + _length_words(self.limits))

    @property
    def search(self) -> Search | None:
        """Where to look for a value: as declared; all values of a bool or of a Literal of numbers; else nowhere."""
        if self.declared_search is not None:
            return self.declared_search
        if self.types == (bool,) and not self.choices:
            return Search(choices=(False, True))
        numeric = self.choices and all(isinstance(choice, (int, float)) for choice in self.choices)
        return Search(choices=self.choices) if numeric and not self.types else None

    @property
    def note(self) -> str:
        """The meaning, and when the option has an effect."""
        return "; ".join(filter(None, [self.meaning, *map(str, self.conditions)]))

    @property
    def wanted(self) -> str:
        """What the option takes, in words: 'a finite number of at least 0 or none'."""
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        kinds = [words[kind] for kind in self.types if not (kind is int and float in self.types)]
        if self.finite and float in self.types:
            kinds = [kind.replace("a number", "a finite number") for kind in kinds]
        range_words = _range_words(self.limits)
        kinds = [f"{kind} {range_words}".strip() for kind in kinds]
        return _alternatives([*map(format_value, self.choices), *kinds, *(["none"] if self.optional else [])])

    def obstacle(self, values: Mapping[str, Any]) -> tuple[OnlyIf | Unless, str] | None:
        """Return the condition that is not met, and the option that it is about, if the option has no effect."""
        for condition in self.conditions:
            name = condition.obstacle(values)
            if name is not None:
                return condition, name
        return None

    def has_type(self, value: Any) -> bool:
        """Return whether a recorded value may be one of the option's, whatever its range was at that time."""
        if value is None:
            return self.optional
        number = float in self.types and (type(value) is int or value in ("inf", "-inf", "nan"))  # as JSON has them
        return type(value) in self.types or type(value) in map(type, self.choices) or number

    def convert(self, value: Any, label: str = "") -> Any:
        """Return the option's value that a text of the command line, or a value of TOML, JSON or Python, stands for.

        Args:
            label: how an error calls the option, if not by its name alone.

        Raises:
            ClbenchError: the value is none of the option's type, or out of its range.
        """
        word = value.strip() if isinstance(value, str) else value
        if self.optional and (value is None or (isinstance(word, str) and word.lower() == "none")):
            return None
        for choice in self.choices:
            same_type = type(value) is type(choice) or (type(value), type(choice)) == (int, float)
            if (same_type and value == choice) or (isinstance(word, str) and word == format_value(choice)):
                return choice
        label = label or f"option '{self.name}'"
        if not self.types:
            raise unknown(f"choice for {label}:", value, map(format_value, self.choices))
        try:
            found = msgspec.convert(
                value if str in self.types else word, self._checked, strict=not isinstance(value, str)
            )
        except msgspec.ValidationError:
            raise ClbenchError(f"{label} takes {self.wanted}, not {_shown(value)}") from None
        if isinstance(found, str) and not _can_be_written(found):
            raise ClbenchError(f"{label} takes a text without NUL and half characters, not {_shown(value)}")
        if (self.finite and not math.isfinite(found)) if isinstance(found, float) else _is_huge(found):
            raise ClbenchError(f"{label} takes {self.wanted}, not {_shown(value)}")
        return found + 0.0 if isinstance(found, float) else found  # no -0.0, which is 0.0 and would make another run

    @property
    def _checked(self) -> Any:
        """The type, with its range, as msgspec wants it."""
        limits = msgspec.Meta(**self.limits)
        kinds = [kind if kind is bool or not self.limits else Annotated[kind, limits] for kind in self.types]
        return Union[tuple(kinds)]  # noqa: UP007


def _can_be_written(text: str) -> bool:
    """Say whether a text can stand in a file, and as a path; one with half a character (of a surrogate pair) or NUL cannot."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _is_huge(value: Any) -> bool:
    """Say whether a value is a whole number of more than 64 bits, which torch does not take."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _length_words(limits: Mapping[str, Any]) -> list[str]:
    least, most = limits.get("min_length"), limits.get("max_length")
    words = [] if least is None else ["not empty" if least == 1 else f"of at least {least} characters"]
    return words + ([] if most is None else [f"of at most {most} characters"])


def _range_words(limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        words = [f"from {format_value(limits['ge'])} to {format_value(limits['le'])}"]
    else:
        at_most = "at most" if "gt" in limits else "of at most"
        phrases = {"ge": "of at least", "gt": "above", "le": at_most, "lt": "below"}
        words = [f"{text} {format_value(limits[key])}" for key, text in phrases.items() if key in limits]
    words += [f"a multiple of {limits['multiple_of']}"] if "multiple_of" in limits else []
    words += _length_words(limits)
    return " and ".join(words)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value).replace("\n", " ")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def format_value(value: Any) -> str:
    """Return a value as the text that stands for it on the command line."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def options_text(values: Mapping[str, Any]) -> str:
    """Return options or settings as text, values as on the command line: 'base=lorareplay, frozen=none'."""
    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())


def list_options(factory: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a method or settings class, in the order of its signature.

    Raises:
        ClbenchError: an option declares what cannot be offered.
    """
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters.values()
    except (NameError, SyntaxError, TypeError, ValueError, AttributeError) as error:
        raise ClbenchError(f"its options cannot be read: {error}") from error
    made = _made_defaults(factory)
    known = {}
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ClbenchError(f"option '{parameter.name}' is positional only and cannot be given by name")
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            default = made[parameter.name]() if parameter.name in made else parameter.default
            known[parameter.name] = _check_declaration(_read_declaration(parameter.name, parameter.annotation, default))
    for option in known.values():
        _check_conditions(option, known)
    return known


def with_upper_bounds(known: Mapping[str, Option]) -> dict[str, Option]:
    """Return options of which every whole number ends somewhere: what declares no `Le` or `Lt` goes up to a bound of its own.

    That is a hundred times the largest number that its declaration names (default, range, search space), at least `MOST_ALWAYS`:
    above what anybody means, and below what fills the memory or never ends.
    """
    return {name: _with_upper_bound(option) for name, option in known.items()}


def _with_upper_bound(option: Option) -> Option:
    if int not in option.types or float in option.types or {"le", "lt"} & set(option.limits):
        return option
    search = option.declared_search
    named = [
        option.default,
        *option.limits.values(),
        *([] if search is None else [search.low, search.high, *search.choices]),
    ]
    largest = max([0, *(number for number in named if type(number) is int)])
    return replace(option, limits={**option.limits, "le": max(MOST_ALWAYS, MANY * largest)})


def _made_defaults(factory: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
    """Return the default factories of a dataclass's fields; its signature shows a mark in their place."""
    if not is_dataclass(factory):
        return {}
    return {one.name: one.default_factory for one in fields(factory) if one.default_factory is not MISSING}


def _read_declaration(name: str, hint: Any, default: Any) -> Option:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(part for extra in rest for part in _unpacked(extra))
    if hint is REQUIRED:
        if default is REQUIRED or default is None:
            raise ClbenchError(f"option '{name}' has neither a type nor a default that shows it; use {USABLE}")
        hint = type(default)
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    choices = tuple(choice for part in members if get_origin(part) is Literal for choice in get_args(part))
    kinds = tuple(part for part in members if get_origin(part) is not Literal and part not in (None, type(None)))
    unusable = [kind for kind in kinds if kind not in (bool, int, float, str)]
    if unusable or (len(kinds) > 1 and set(kinds) != {int, float}) or (str in kinds and choices):
        raise ClbenchError(f"option '{name}' has the type {_type_text(hint)}; use {USABLE}")
    if any(not isinstance(choice, (bool, int, float, str, type(None))) for choice in choices):
        raise ClbenchError(f"option '{name}': a Literal's values must be texts, numbers, true, false or none")
    texts = [format_value(choice) for choice in choices] + ["none"] * (None in members or type(None) in members)
    if len(set(texts)) < len(texts):
        raise ClbenchError(f"option '{name}': two of its values are written alike: {', '.join(texts)}")
    optional = len(kinds) + sum(get_origin(part) is Literal for part in members) < len(members) or None in choices
    return Option(
        name=name, types=kinds, choices=tuple(choice for choice in choices if choice is not None), optional=optional,
        default=default, meaning=next((extra for extra in extras if isinstance(extra, str)), ""),
        limits=_limits(name, extras), finite=not any(isinstance(extra, NonFinite) for extra in extras),
        conditions=tuple(extra for extra in extras if isinstance(extra, (OnlyIf, Unless))),
        declared_search=next((extra for extra in extras if isinstance(extra, Search)), None),
    )  # fmt: skip


def _type_text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _unpacked(extra: Any) -> tuple[Any, ...]:
    return tuple(extra) if isinstance(extra, annotated_types.GroupedMetadata) else (extra,)


def _limits(name: str, extras: Collection[Any]) -> dict[str, Any]:
    """Return the range that annotated_types declare, as arguments of `msgspec.Meta`."""
    keys = {
        annotated_types.Ge: "ge", annotated_types.Gt: "gt", annotated_types.Le: "le", annotated_types.Lt: "lt",
        annotated_types.MultipleOf: "multiple_of", annotated_types.MinLen: "min_length", annotated_types.MaxLen: "max_length",
    }  # fmt: skip
    found: dict[str, Any] = {}
    for extra in extras:
        if type(extra) in keys:
            key = keys[type(extra)]
            found[key] = getattr(extra, key)
        elif isinstance(extra, annotated_types.BaseMetadata):
            raise ClbenchError(
                f"option '{name}': {type(extra).__name__} cannot be checked; use Ge, Gt, Le, Lt, MinLen, MaxLen"
            )
    return found


def _check_declaration(option: Option) -> Option:
    """Return the option, its default converted, if type, range, default and search space agree."""
    label = f"option '{option.name}'"
    numeric = bool({int, float} & set(option.types))
    for keys, has, kind in ((_BOUNDS, numeric, "numbers"), (_LENGTHS, str in option.types, "texts")):
        if set(keys) & set(option.limits) and not has:
            raise ClbenchError(f"{label} of type {option.type_name} declares a range of {kind}")
    try:
        default = (
            option.default if option.default is REQUIRED else option.convert(option.default, f"the default of {label}")
        )
        if default is REQUIRED and option.conditions:
            raise ClbenchError(f"{label} has no default to keep where it has no effect")
        if option.declared_search is not None:
            _check_search(option, option.declared_search)
    except (TypeError, ValueError) as error:
        raise ClbenchError(f"{label}: its range does not fit its type {option.type_name}: {error}") from error
    return Option(**{**vars(option), "default": default})


def _check_search(option: Option, search: Search) -> None:
    label = f"the search space of option '{option.name}'"
    if search.choices:
        if len(search.choices) < 2 or not (search.low is search.high is None) or search.log:
            raise ClbenchError(f"{label} must be two or more choices, or a low and a high end")
        ends = search.choices
    else:
        if search.low is None or search.high is None or not search.low < search.high:
            raise ClbenchError(f"{label} must have a low end below its high end, or choices")
        if not {int, float} & set(option.types) or (search.log and search.low <= 0):
            raise ClbenchError(
                f"{label} must be choices" if not search.log else f"{label} must begin above 0 to be logarithmic"
            )
        ends = (search.low, search.high)
    for value in ends:
        option.convert(value, label)


def _check_conditions(option: Option, known: Mapping[str, Option]) -> None:
    for condition in option.conditions:
        for name, values in condition.values.items():
            if name not in known or name == option.name:
                raise unknown(
                    f"other option, which option '{option.name}' depends on:", name, known.keys() - {option.name}
                )
            for value in values:
                known[name].convert(value, f"option '{option.name}', which depends on option '{name}': it")


def settle(
    known: Mapping[str, Option], given: Mapping[str, Any], base: Mapping[str, Any], owner: str = ""
) -> dict[str, Any]:
    """Return the value of every option: given, else of the base (a variant, a preset), else its default.

    Options without effect keep their defaults.

    Args:
        owner: whose options they are in an error, "method 'ewc'"; empty for settings.

    Raises:
        ClbenchError: no such option, a bad value, an option without default is missing, or a given one has no effect.
    """
    for name in (*base, *given):
        if name not in known:
            raise unknown(f"option of {owner}:" if owner else "setting", name, known)
    values = {name: option.default for name, option in known.items()}
    for name, value in {**base, **given}.items():
        values[name] = known[name].convert(value, _label(name, owner))
    missing = next((name for name, value in values.items() if value is REQUIRED), None)
    if missing is not None:
        raise ClbenchError(f"{owner or 'the settings'} needs a value: --set {missing}=...")
    for name, option in known.items():
        found = option.obstacle(values)
        if found is not None:
            condition, other = found
            if name in given:
                raise ClbenchError(
                    f"{_label(name, owner)} has no effect with {other}={format_value(values[other])}; "
                    f"leave it out or {condition.advice(other)}"
                )
            values[name] = option.default
    return values


def restore(known: Mapping[str, Option], values: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
    """Return the values again, checked, of options that were settled before, or set in Python.

    One without effect may be named as long as it has its default.

    Raises:
        ClbenchError: as `settle`.
    """
    given = {}
    for name, value in values.items():
        if name not in known:
            raise unknown(f"option of {owner}:" if owner else "setting", name, known)
        converted = known[name].convert(value, _label(name, owner))
        if not _is_among(converted, (known[name].default,)):
            given[name] = converted
    return settle(known, given, {}, owner)


def _label(name: str, owner: str) -> str:
    return f"option '{name}' of {owner}" if owner else f"setting '{name}'"
