"""Options: types, ranges, effect and search space from one declaration, and its check when the plugin is found."""

import math
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, MaxLen, MinLen, MultipleOf, Predicate
from hypothesis import given, settings
from hypothesis import strategies as st

from clbench.about import About, Ratio, Rows
from clbench.cli.parameters import parse_assignments, parse_seeds
from clbench.discovery import Method, find_plugins
from clbench.errors import ClbenchError
from clbench.options import NonFinite, OnlyIf, Option, Search, Unless, format_value, list_options
from clbench.settings import Settings, list_settings, resolve_settings

METHODS = find_plugins().methods
DECLARED = [
    *(pytest.param(option, id=f"setting {name}") for name, option in list_settings().items()),
    *(pytest.param(o, id=f"{m.name} {name}") for m in METHODS.values() for name, o in m.options.items()),
]


def resolve(factory, **given):
    return Method("m", factory, "here").resolve_options(given)


def test_a_type_is_inferred_from_the_default():
    def build(strength=0.1, steps=3, careful=True, name="x"):
        return strength

    assert resolve(build, strength="0.5", steps="7", careful="false", name="7") == {
        "strength": 0.5, "steps": 7, "careful": False, "name": "7",
    }  # fmt: skip
    assert resolve(build, strength="1")["strength"] == 1.0
    with pytest.raises(ClbenchError, match="option 'strength' of method 'm' takes a finite number, not 'much'"):
        resolve(build, strength="much")


@dataclass(eq=False)
class Typed:
    """What else an option can be."""

    needed: int
    either: int | float = 1
    mixed: Literal["auto", 2, 0.5, True, None] = "auto"
    auto: Literal["auto"] | float | None = "auto"
    made: float = field(default_factory=lambda: 0.25)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("either", "3", 3), ("either", "0.5", 0.5), ("mixed", "2", 2), ("mixed", "0.5", 0.5), ("mixed", "true", True),
        ("mixed", "none", None), ("mixed", "auto", "auto"), ("auto", "auto", "auto"), ("auto", "2", 2.0), ("auto", "none", None),
        ("made", "2", 2.0),
    ],
)  # fmt: skip
def test_unions_and_mixed_literals(name, text, value):
    found = resolve(Typed, needed=1, **{name: text})[name]
    assert (found, type(found)) == (value, type(value))


def test_a_default_factory_and_a_required_option():
    options = list_options(Typed)
    assert (options["made"].default, options["needed"].default_text) == (0.25, "(required)")
    assert resolve(Typed, needed="2")["made"] == 0.25
    with pytest.raises(ClbenchError, match="method 'm' needs a value: --set needed="):
        resolve(Typed)


def with_type(hint, default=None):
    """Return a factory with one option."""

    def build(x=default):
        return x

    build.__annotations__ = {"x": hint}
    return build


def plain(x=1, *, y="a"):
    return x


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (with_type(list[int]), r"option 'x' has the type list\[int\]; use bool, int, float, str, int \| float or Literal"),
        (with_type(complex, 1j), "option 'x' has the type complex; use"),
        (with_type(int | str, 1), r"option 'x' has the type int \| str; use"),
        (with_type(bool | int, 1), r"option 'x' has the type bool \| int; use"),
        (with_type("Unheard", 1), "its options cannot be read: name 'Unheard' is not defined"),
        (with_type(int, None), "the default of option 'x' takes a whole number, not None"),
        (with_type(int, 0.5), "the default of option 'x' takes a whole number, not 0.5"),
        (with_type(Annotated[int, Ge(2)], 1), "the default of option 'x' takes a whole number of at least 2, not 1"),
        (with_type(Annotated[bool, Ge(2)], True), "option 'x' of type bool declares a range of numbers"),
        (with_type(Annotated[int, MinLen(2)], 3), "option 'x' of type int declares a range of texts"),
        (with_type(Annotated[int, Predicate(bool)], 1), "option 'x': Predicate cannot be checked; use Ge, Gt"),
        (with_type(Literal["1", 1], 1), "option 'x': two of its values are written alike: 1, 1"),
        (with_type(Annotated[float, Search(2, 1)], 1), "search space of option 'x' must have a low end below its high end"),
        (with_type(Annotated[float, Search(1)], 1), "search space of option 'x' must have a low end below its high end"),
        (with_type(Annotated[float, Search(0, 1, log=True)], 1), "search space of option 'x' must begin above 0"),
        (with_type(Annotated[float, Ge(1), Search(0.5, 2)], 1), "search space of option 'x' takes a finite number of at least 1"),
        (with_type(Annotated[int, Search(0.5, 2)], 1), "search space of option 'x' takes a whole number, not 0.5"),
        (with_type(Annotated[str, Search(1, 2)], "a"), "search space of option 'x' must be choices"),
        (with_type(Annotated[int, Search(choices=(1,))], 1), "search space of option 'x' must be two or more choices"),
        (with_type(Annotated[int, OnlyIf(z=1)], 1), "no other option, which option 'x' depends on: 'z'"),
        (lambda x, /: x, "option 'x' is positional only"),
        (with_type(dict), "option 'x' has the type dict; use"),
        (lambda x=None: x, "option 'x' has neither a type nor a default that shows it"),
    ],
)  # fmt: skip
def test_what_cannot_be_offered_is_refused(factory, message):
    with pytest.raises(ClbenchError, match=message) as caught:
        list_options(factory)
    assert "\n" not in str(caught.value)


def test_discovery_names_plugin_and_method(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from clbench import hookimpl\n@hookimpl\ndef methods():\n    return {'odd': lambda x=[]: x}\n")
    with pytest.raises(ClbenchError, match=r"^plugin .*mine.py: method 'odd': option 'x' has the type list; use bool"):
        find_plugins([file])


def test_a_condition_on_a_value_that_there_is_not_is_refused():
    def build(form: Literal["a", "b"] = "a", x: Annotated[int, OnlyIf(form="c")] = 1):
        return x

    with pytest.raises(ClbenchError, match=r"depends on option 'form': it: 'c' \(known: a, b\)"):
        list_options(build)


def test_ranges_in_words_and_signs():
    kinds = {
        (Annotated[int, Ge(1)], 1): ("a whole number of at least 1", ">= 1"),
        (Annotated[float, Gt(0), Le(1)], 1): ("a finite number above 0 and at most 1", "> 0, <= 1"),
        (Annotated[float, Interval(ge=0, le=1)], 1): ("a finite number from 0 to 1", ">= 0, <= 1"),
        (Annotated[int, Ge(8), MultipleOf(8)], 8): (
            "a whole number of at least 8 and a multiple of 8",
            ">= 8, a multiple of 8",
        ),
        (Annotated[float | None, NonFinite()], None): ("a number or none", ""),
    }
    for (hint, default), words in kinds.items():
        option = list_options(with_type(hint, default))["x"]
        assert (option.wanted, option.range_text) == words
    option = list_options(with_type(Annotated[str, MinLen(1), MaxLen(3)], "ab"))["x"]
    for text in ("", "abcd"):
        with pytest.raises(ClbenchError, match="takes a text not empty and of at most 3 characters"):
            option.convert(text)


def test_infinity_and_nan_only_where_declared():
    options = list_options(with_type(Annotated[float, NonFinite()], math.inf))
    assert options["x"].convert("-inf") == -math.inf
    assert math.isnan(options["x"].convert("nan"))


def test_search_spaces():
    def build(
        a: bool = True,
        b: Literal[1, 2] = 1,
        c: Literal["x", "y"] = "x",
        d: float = 1.0,
        e: Annotated[float, Search(0.1, 1, log=True)] = 1.0,
    ):
        return a

    spaces = {name: option.search and str(option.search) for name, option in list_options(build).items()}
    assert spaces == {"a": "false, true", "b": "1, 2", "c": None, "d": None, "e": "0.1 to 1, log"}


@dataclass(eq=False)
class Forms:
    """Options that have an effect in one form alone."""

    form: Literal["a", "b", "c"] = "a"
    decay: Annotated[float, OnlyIf(form=("a", "b"))] = 0.5
    steps: Annotated[int, Unless(form="c", decay=0)] = 3


def test_an_option_without_effect_is_refused_with_the_reason():
    assert resolve(Forms, form="b", decay="0.1")["decay"] == 0.1
    reason = r"^option 'decay' of method 'm' has no effect with form=c; leave it out or set form=a or b$"
    with pytest.raises(ClbenchError, match=reason):
        resolve(Forms, form="c", decay="0.5")  # also where it is the default
    with pytest.raises(
        ClbenchError, match=r"'steps' of method 'm' has no effect with decay=0\.0; leave it out or set another decay"
    ):
        resolve(Forms, decay="0", steps="4")


def test_an_option_without_effect_makes_no_other_run():
    class Varied(Forms):
        about: ClassVar[About] = About(variants={"plain": {}, "quick": {"decay": 0.1, "steps": 9}})

    assert resolve(Varied, variant="quick")["decay"] == 0.1
    assert (
        resolve(Varied, variant="quick", form="c")
        == resolve(Varied, form="c")
        == {"form": "c", "decay": 0.5, "steps": 3}
    )


def test_python_and_saved_options_are_checked_too():
    method = Method("m", Forms, "here")
    values = method.resolve_options({"form": "c"})
    assert method.build(values).decay == 0.5  # named, at its default
    assert method.build({"decay": 1}).decay == 1.0
    with pytest.raises(ClbenchError, match="no effect with form=c"):
        method.build({**values, "decay": 0.7})
    with pytest.raises(ClbenchError, match="takes a finite number, not nan"):
        method.build({"decay": math.nan})
    with pytest.raises(ClbenchError, match="no option of method 'm': 'deccay'; did you mean 'decay'"):
        method.build({"deccay": 1})
    for bad in (
        {"seed": -1},
        {"learning_rate": math.inf},
        {"weight_decay": math.nan},
        {"clip_norm": math.inf},
        {"epochs": True},
    ):
        with pytest.raises(ClbenchError, match=f"setting '{next(iter(bad))}' takes"):
            Settings(**bad)
    assert repr(Settings(lora_dropout=0).lora_dropout) == "0.0"  # as from the command line: one run, not two


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"memory": "decay"}, "its 'about' must be an About, not dict"),
        (About(memory=Ratio("ratio")), "no option that 'about' names: 'ratio'"),
        (About(memory=Rows("form")), "its 'about' names option 'form', which is no number"),
        (About(learning_rate="rate"), "no option that 'about' names: 'rate'"),
        (About(variants={"x": {"decay": 1.0}}), "its first variant, 'x', must be the defaults"),
        (
            About(variants={"x": {}, "y": {"dekay": 1.0}}),
            "no option that variant 'y' sets: 'dekay'; did you mean 'decay'",
        ),
        (About(variants={"x": {}, "y": {"form": "d"}}), "no choice for option 'form' of variant 'y': 'd'"),
        (
            About(variants={"x": {}, "y": {"form": "c", "decay": 0.1}}),
            "option 'decay' of variant 'y' has no effect with form=c",
        ),
    ],
)
def test_what_a_method_says_of_itself_is_checked(about, message):
    factory = type("Wrong", (Forms,), {"about": about})
    with pytest.raises(ClbenchError, match=message):
        _ = Method("m", factory, "here").about


def test_what_a_method_says_of_itself_is_found_through_a_partial():
    factory = type("Right", (Forms,), {"about": About(upper_bound=True)})
    assert Method("m", partial(factory, form="b"), "here").about.upper_bound


def test_the_memory_that_a_dry_run_needs():
    assert (Ratio("x").enlarged(0.02, 8, 80), Ratio("x").enlarged(0.5, 8, 80), Ratio("x").enlarged(0.1, 8, 4)) == (
        0.1,
        0.5,
        1.0,
    )
    assert (Rows("x").enlarged(2, 8, 80), Rows("x").enlarged(9, 8, 80), Rows("x").enlarged(2, 8, 4)) == (8, 9, 4)
    assert (Ratio("x").budget(0.02, 100, 4), Ratio("x").budget(0.1, 100, 4), Ratio("x").budget(0, 100, 4)) == (4, 10, 0)
    assert (Rows("x").budget(5, 100, 9), Rows("x").budget(5, 3, 9), Rows("x").budget(None, 3, 9)) == (5, 3, 0)


def allowed(option: Option, value: object) -> bool:
    """Say, from the declaration alone, whether a number is a value of the option."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (float in option.types or (int in option.types and value == int(value))):
        return False
    at = option.limits
    return all(
        (
            value >= at.get("ge", value),
            value > at.get("gt", -math.inf),
            value <= at.get("le", value),
            value < at.get("lt", math.inf),
        )
    )


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_text_that_no_file_takes_is_no_value(text):
    for name in ("backbone", "data", "stream", "device"):
        with pytest.raises(ClbenchError, match=f"'{name}' takes a text without NUL and half characters"):
            list_settings()[name].convert(text)


SWEEP = {
    "nan": None,
    "inf": None,
    "-inf": None,
    "-1": -1,
    "1000000000000000000": 10**18,
    "1e300": 1e300,
    "0": 0,
    "": "",
    "text": "text",
}


@pytest.mark.parametrize("option", DECLARED)
@pytest.mark.parametrize("text", SWEEP)
def test_every_declared_option_takes_what_it_declares_and_nothing_else(option, text):
    value = SWEEP[text]
    if option.types == (bool,):
        right = text == "0"
    elif str in option.types:
        right = bool(text) or not option.limits
    else:
        too_long = value == 1e300 and float not in option.types
        right = text in map(format_value, option.choices) or (
            not too_long and value is not None and allowed(option, value)
        )
    if right:
        option.convert(text)
        return
    with pytest.raises(ClbenchError) as caught:
        option.convert(text)
    assert "\n" not in str(caught.value)
    assert option.name in str(caught.value)


@pytest.mark.parametrize("option", DECLARED)
def test_no_number_of_ours_is_without_a_range(option):
    assert not {int, float} & set(option.types) or {"ge", "gt"} & option.limits.keys()


def values_of(option: Option) -> st.SearchStrategy:
    """Return a strategy for the values of an option."""
    at = option.limits
    kinds = {
        bool: st.booleans(),
        int: st.integers(at.get("ge"), at.get("le", 2**63 - 1)),
        str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=at.get("min_length", 0)),
        float: st.floats(
            at.get("ge", at.get("gt")), at.get("le", at.get("lt")), exclude_min="gt" in at, exclude_max="lt" in at,
            allow_nan=False, allow_infinity=False,
        ),
    }  # fmt: skip
    if option.optional:
        kinds[str] = kinds[str].filter(lambda text: text.lower() != "none")  # how nothing is written
    strategies = [kinds[kind] for kind in option.types] + ([st.sampled_from(option.choices)] if option.choices else [])
    return st.one_of(*strategies, *([st.none()] if option.optional else []))


@pytest.mark.parametrize("option", DECLARED)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_value_written_and_read_is_the_same(option, data):
    value = data.draw(values_of(option))
    again = option.convert(format_value(value))
    assert (again, type(again)) == (value, type(value))
    assert option.convert(value) == value


def taken_or_refused(attempt: Callable[[], object]) -> bool:
    """Say whether a call succeeds, or ends in an error of one line."""
    try:
        attempt()
    except ClbenchError as error:
        return len(str(error).splitlines()) == 1
    return True


@settings(deadline=None, max_examples=50)
@given(name=st.sampled_from([*METHODS]), text=st.text(), data=st.data())
def test_random_text_is_taken_or_refused_in_one_line(name, text, data):
    method = METHODS[name]
    option = data.draw(st.sampled_from([*method.options, "variant", text]))
    setting = data.draw(st.sampled_from([*list_settings(), text]))
    assert taken_or_refused(lambda: method.build(method.resolve_options({option: text})))
    assert taken_or_refused(lambda: resolve_settings({setting: text}))


@settings(deadline=None, max_examples=50)
@given(text=st.text(alphabet=string.printable))
def test_random_assignments_and_seeds_are_taken_or_refused_in_one_line(text):
    assert taken_or_refused(lambda: parse_assignments((text,)))
    assert taken_or_refused(lambda: parse_seeds(text))


def test_a_whole_number_of_a_method_ends_somewhere():
    def build(
        small: Annotated[int, Ge(0)] = 3,
        large: int = 5000,
        searched: Annotated[int | None, Search(choices=(2, 300))] = None,
        least: Annotated[int, Ge(2000)] = 2000,
        declared: Annotated[int, Le(10**9)] = 1,
        below: Annotated[int, Interval(gt=0, lt=10**7)] = 1,
        either: int | float = 1,
    ):
        return small

    options = Method("m", build, "here").options
    assert {name: option.limits.get("le", option.limits.get("lt")) for name, option in options.items()} == {
        "small": 10_000, "large": 500_000, "searched": 30_000, "least": 200_000, "declared": 10**9, "below": 10**7,
        "either": None,
    }  # fmt: skip
    assert resolve(build, small="10000", searched="none")["small"] == 10_000
    with pytest.raises(
        ClbenchError, match="option 'small' of method 'm' takes a whole number from 0 to 10000, not 10001"
    ):
        resolve(build, small=10_001)
    assert "le" not in list_options(build)["small"].limits  # the harness's own settings say where they end


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_no_whole_number_of_a_method_is_without_an_end(method):
    for name, option in method.options.items():
        if int in option.types and float not in option.types:
            with pytest.raises(ClbenchError, match=f"option '{name}' of method '{method.name}' takes a whole number"):
                method.resolve_options({name: 10**9})
