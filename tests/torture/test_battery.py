"""The battery in its short form, and that it can fail: `pytest -n 0 -m torture tests/torture`."""

import pytest

from clbench.running import checkpoints, protocol
from tests.torture.__main__ import KINDS, Row, as_table, torture
from tests.torture.children import Ending
from tests.torture.scene import Scene, fault


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = Scene(tmp_path_factory.mktemp("torture"))
    made.measure()
    return made


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_nothing_is_lost(scene, kind):
    row = torture(scene, kind, kind.short, 1)
    assert row.tried >= 1
    assert list(row.lost) == []


@pytest.mark.torture
@pytest.mark.parametrize(
    ("kind", "module", "name", "broken", "loss"),
    [
        ("kill at each file event", protocol, "restore_state", lambda *given: None, "another "),
        ("bad checkpoint", checkpoints, "_digest", lambda *given: "0", "silently wrong: another "),
    ],
)
def test_the_battery_notices_what_is_broken(scene, monkeypatch, kind, module, name, broken, loss):
    monkeypatch.setattr(module, name, broken)
    (chosen,) = (one for one in KINDS if one.name == kind)
    assert any(loss in line for line in torture(scene, chosen, 12, 1).lost)


@pytest.mark.parametrize(
    ("code", "errors", "wrong"),
    [
        (0, "", ""),
        (0, "warning: x\n", ""),
        (2, "error: x\n", ""),
        (2, "warning: y\nerror: x\n", ""),
        (None, "", "hangs"),
        (-11, "", "ends with -11"),
        (2, "", "no line says why"),
        (2, "y\nerror: x\n", "2 lines instead of one"),
        (2, "error: KeyError (f.py, line 3; --traceback shows the whole)\n", "no words for"),
        (0, "Traceback (most recent call last)\n", "no words for"),
    ],
)
def test_what_counts_as_a_fault(code, errors, wrong):
    found = fault(Ending(code, errors))
    assert wrong in found if wrong else found == ""


def test_the_table_has_a_sum():
    table = as_table([Row("a", 3, ["x"], 1.0), Row("b", 2, [], 1.0)])
    assert table.split("\n")[2:] == ["| a | 3 | 2 | 1 |", "| b | 2 | 2 | 0 |", "| all | 5 | 4 | 1 |"]
