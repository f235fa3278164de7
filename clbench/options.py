"""Options: the keyword parameters of a callable, with type, default and meaning, and their parsing from text.

One convention serves the harness's settings and the methods' options: a parameter is written
`name: Annotated[type, "meaning"] = default`. Types: bool, int, float, str, `Literal[...]`, each also `| None`.
"""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from clbench.errors import ClbenchError, unknown

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One keyword parameter: `choices` is empty unless its type is a Literal."""

    name: str
    type: type
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def type_name(self) -> str:
        """The type as shown to a user, for example 'float' or 'sum|max' or 'int or none'."""
        name = "|".join(self.choices) or self.type.__name__
        return f"{name} or none" if self.optional else name


def list_options(factory: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a method or settings class, in the order of its signature."""
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: _option(p, hints.get(p.name, str)) for p in parameters if p.kind is not p.VAR_KEYWORD}


def _option(parameter: inspect.Parameter, hint: Any) -> Option:
    meaning = ""
    if get_origin(hint) is Annotated:
        hint, meaning = get_args(hint)[:2]
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        optional, hint = len(inner) < len(get_args(hint)), inner[0]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return Option(parameter.name, type(choices[0]), parameter.default, meaning, tuple(map(str, choices)), optional)
    if hint not in (bool, int, float, str):
        raise ClbenchError(f"option '{parameter.name}' has type {hint}; use bool, int, float, str or Literal")
    return Option(parameter.name, hint, parameter.default, meaning, (), optional)


def parse_value(option: Option, text: str) -> Any:
    """Return the value that a text on the command line or a TOML value stands for.

    Raises:
        ClbenchError: the text is no value of the option's type.
    """
    word = str(text).strip()
    if option.optional and word.lower() == "none":
        return None
    if option.choices:
        if word not in option.choices:
            raise unknown(f"choice for option '{option.name}':", word, option.choices)
        return option.type(word)
    if option.type is bool:
        if word.lower() not in ("true", "false"):
            raise ClbenchError(f"option '{option.name}' takes true or false, not '{word}'")
        return word.lower() == "true"
    try:
        return option.type(word)
    except ValueError:
        raise ClbenchError(f"option '{option.name}' takes {option.type_name}, not '{word}'") from None


def parse_options(kind: str, known: Mapping[str, Option], given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parsed values of the given options; `kind` names them in an error ("option of method 'ewc'")."""
    for name in given:
        if name not in known:
            raise unknown(kind, name, known)
    return {name: parse_value(known[name], text) for name, text in given.items()}
