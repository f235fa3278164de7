"""Data, records and reports import nothing that a model needs; `lint-imports` cannot tell `safetensors.torch` from the rest."""

import subprocess
import sys

import pytest

CODE = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [info.name for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted({"torch", "transformers", "peft", "accelerate"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("room", ["clbench.data", "clbench.records", "clbench.reports"])
def test_a_room_without_models_imports_no_model(room: str) -> None:
    found = subprocess.run([sys.executable, "-c", CODE, room], capture_output=True, text=True, check=True)
    count, *heavy = found.stdout.split()
    assert int(count) >= 5
    assert heavy == []
