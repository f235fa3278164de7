"""The public names: each is there, documented and typed; loading them loads no more than is needed; plugins use no others."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clbench
from tests.conftest import EXAMPLE_PLUGINS, ROOT

HEAVY = {"torch", "transformers", "peft", "datasets", "pandas", "numpy", "matplotlib"}
LISTED = set(re.findall(r"^::: (clbench[\w.]*)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.M))
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))
INIT = ast.parse((ROOT / "clbench" / "__init__.py").read_text("utf-8"))


def test_every_public_name_is_there_documented_and_in_the_api_reference() -> None:
    assert clbench.__all__ == sorted(clbench.__all__, key=lambda name: (name[0].islower(), name))
    for name in clbench.__all__:
        found = getattr(clbench, name)
        assert found.__doc__, name
        assert f"clbench.{name}" in LISTED
        assert name in dir(clbench)
    with pytest.raises(AttributeError, match="no attribute 'ruN'"):
        _ = clbench.ruN  # type: ignore[attr-defined]


def test_the_type_checker_reads_the_names_where_they_are_loaded_from() -> None:
    (block,) = [node for node in INIT.body if isinstance(node, ast.If)]
    typed = {
        node.module: tuple(one.name for one in node.names) for node in block.body if isinstance(node, ast.ImportFrom)
    }
    assert typed == clbench._MODULES
    assert sorted(name for names in typed.values() for name in names) == sorted(clbench.__all__)


@pytest.mark.parametrize("words", ["", "--help", "run --help"])
def test_the_package_and_its_help_load_nothing_heavy(words: str) -> None:
    code = "import atexit, sys, clbench\natexit.register(lambda: print('\\n', *sys.modules))\n"
    code += f"from clbench.cli.main import main\nmain({words.split()})" if words else ""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.splitlines()[-1].split())
    assert "clbench" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("path", [*PLUGINS, *sorted(EXAMPLE_PLUGINS.glob("*.py"))], ids=lambda path: path.stem)
def test_a_plugin_imports_what_the_api_reference_lists_alone(path: Path) -> None:
    imported = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    for node in imported:
        module = node.module or ""
        if module == "clbench":
            assert {one.name for one in node.names} <= set(clbench.__all__)
        elif module.startswith("clbench."):
            assert not {one.name for one in node.names} & set(clbench.__all__), f"{module}: take it from clbench"
            own = module.startswith("clbench.plugins.") and path in PLUGINS
            assert own or {f"{module}.{one.name}" for one in node.names} <= LISTED
    assert imported or path.stem == "__init__"
