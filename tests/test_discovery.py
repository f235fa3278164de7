"""Discovery: where plugins come from, and the guards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from clbench import hookimpl
from clbench.discovery import Method, find_plugins, run_manager
from clbench.errors import ClbenchError, ClbenchWarning
from tests.conftest import EXAMPLE_PLUGINS

EXAMPLE_PLUGIN = EXAMPLE_PLUGINS / "l2.py"
HEAD = "from clbench import hookimpl\n"


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(HEAD + text)
    return path


def test_built_in_methods_are_found_with_a_summary():
    found = find_plugins().methods
    assert {"seqlora", "lorareplay", "rkif", "mtl"} <= set(found)
    for method in found.values():
        assert len(method.summary) > 20, method.name
        assert method.origin.startswith(f"clbench.plugins.{method.name}")


def test_a_file_adds_a_method():
    found = find_plugins([EXAMPLE_PLUGIN, EXAMPLE_PLUGIN])
    assert found.method("l2").options["strength"].default == 0.01
    assert str(EXAMPLE_PLUGIN) in found.modules


def test_an_entry_point_adds_a_method(tmp_path, monkeypatch):
    package = tmp_path / "other-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[clbench]\nother = other_methods\n")
    (tmp_path / "other_methods.py").write_text(EXAMPLE_PLUGIN.read_text().replace('"l2"', '"l2other"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_plugins().method("l2other").origin == "entry point other (other_methods)"
    (tmp_path / "other_methods.py").unlink()
    monkeypatch.delitem(__import__("sys").modules, "other_methods")
    with pytest.warns(ClbenchWarning, match=r"entry point other .* cannot be imported: ModuleNotFoundError"):
        found = find_plugins()
    assert "seqlora" in found.methods
    with pytest.raises(ClbenchError, match=r"no method 'l2other'.*entry point other .* cannot be imported"):
        found.method("l2other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_this", "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("def methods(): return {}", "'methods' is called like a hook but lacks @hookimpl"),
        ("@hookimpl\ndef method(): return {}", "unknown hook 'method'"),
        ("@hookimpl\ndef methods(nothing): return {}", "nothing"),
        ("@hookimpl\ndef methods(): return ['x']", "must return a mapping"),
        ("@hookimpl\ndef methods(): return {3: print}", "must return a mapping from names"),
        ("@hookimpl\ndef methods(): return 1 / 0", r"methods\(\) failed: ZeroDivisionError"),
        ("@hookimpl\ndef methods(): return {'rkif': dict}", r"method 'rkif' is offered twice: by .* and by "),
    ],
)
def test_malformed_plugins_fail_loudly(tmp_path, text, message):
    with pytest.raises(ClbenchError, match=message):
        find_plugins([plugin(tmp_path, text)])


def test_a_missing_file(tmp_path):
    with pytest.raises(ClbenchError, match="no plugin file"):
        find_plugins([tmp_path / "none.py"])


def test_unknown_method_names_the_nearest():
    with pytest.raises(
        ClbenchError, match=r"no method 'rkf'; did you mean 'rkif'\? \(26 are known: `clbench methods`\)$"
    ):
        find_plugins().method("rkf")


class Unmarked:
    def learn_task(self, learner, task):
        return {}


class Nothing:
    pass


class Misspelt:
    @hookimpl
    def learn_task(self, learner, task):
        return {}

    @hookimpl
    def evalute(self, learner, task):
        return []


class Good:
    @hookimpl
    def learn_task(self, learner, task):
        return {}


@pytest.mark.parametrize(
    ("method", "others", "message"),
    [
        (Unmarked(), [], "'learn_task' is called like a hook but lacks @hookimpl"),
        (Nothing(), [], "exactly one plugin must implement learn_task, the method 'm'; here: nobody"),
        (Misspelt(), [], "unknown hook 'evalute'"),
        (Good(), [Good()], "exactly one plugin must implement learn_task"),
    ],
)
def test_guards_at_registration(method, others, message):
    with pytest.raises(ClbenchError, match=message):
        run_manager(find_plugins(), method, "m", others)


@dataclass(eq=False)
class Typed:
    """Everything an option can be."""

    flag: bool = False
    count: Annotated[int, "how many"] = 2
    rate: float = 0.5
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    level: Literal[1, 2] = 1
    limit: int | None = None


def test_options_are_parsed_by_type():
    method = Method("typed", Typed, "here")
    given = {"flag": "true", "count": "7", "rate": "1e-3", "name": "y z", "mode": "b", "level": "2", "limit": "9"}
    values = {"flag": True, "count": 7, "rate": 0.001, "name": "y z", "mode": "b", "level": 2, "limit": 9}
    assert method.resolve_options(given) == values
    assert method.resolve_options({"limit": "none"})["limit"] is None
    assert method.options["count"].meaning == "how many"
    assert [option.type_name for option in method.options.values()] == [
        "bool", "int", "float", "str", "a|b", "1|2", "int or none",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("flag", "yes", "option 'flag' of method 'typed' takes true or false, not 'yes'"),
        ("count", "1.5", "option 'count' of method 'typed' takes a whole number of at most 10000, not '1.5'"),
        ("rate", "fast", "option 'rate' of method 'typed' takes a finite number, not 'fast'"),
        ("mode", "c", r"no choice for option 'mode' of method 'typed': 'c' \(known: a, b\)"),
        ("cuont", "1", "no option of method 'typed': 'cuont'; did you mean 'count'"),
    ],
)
def test_bad_option_values(name, text, message):
    with pytest.raises(ClbenchError, match=message):
        Method("typed", Typed, "here").resolve_options({name: text})


def test_an_option_without_default_must_be_given():
    def build(strength: float):
        return strength

    method = Method("needy", build, "here")
    with pytest.raises(ClbenchError, match="needs a value: --set strength="):
        method.resolve_options({})
    assert method.build(method.resolve_options({"strength": "2"})) == 2.0


def test_plugins_offer_metrics(tmp_path):
    text = "from clbench import hookimpl\n@hookimpl\ndef metrics():\n    return {}\n"
    (tmp_path / "a.py").write_text(text.format("{'half': lambda answer, target: 50.0}"))
    (tmp_path / "b.py").write_text(text.format("{'half': lambda answer, target: 51.0}"))
    (tmp_path / "c.py").write_text(text.format("['half']"))
    found = find_plugins([tmp_path / "a.py"])
    assert found.metrics["half"]("", "") == 50
    assert "rouge_l" in found.metrics
    with pytest.raises(ClbenchError, match=r"metric 'half' is offered twice: the second time by .*\.py"):
        find_plugins([tmp_path / "a.py", tmp_path / "b.py"])
    with pytest.raises(ClbenchError, match=r"metrics\(\) must return a mapping"):
        find_plugins([tmp_path / "c.py"])


def test_a_memory_of_less_than_a_row_is_enlarged_and_one_without_effect_is_not():
    replay, migu = find_plugins().method("lorareplay"), find_plugins().method("migu")
    assert replay.enlarge_memory(replay.resolve_options({}), 20, 40)["memory_ratio"] == 0.5  # 2 % of 40 rows are none
    assert migu.enlarge_memory(migu.resolve_options({}), 20, 40) == migu.resolve_options({})
