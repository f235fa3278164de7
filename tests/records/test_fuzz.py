"""Records with anything in any place: each command takes them or names them, and never fails."""

import json
import random
import re

import pytest

from clbench.records.answers import answer_bytes, answers_path
from clbench.records.files import RunFiles
from tests.conftest import REFERENCE
from tests.records.examples import record

VALUES = [
    None,
    True,
    0,
    -1,
    1,
    10**30,
    1e308,
    -0.5,
    "",
    "x",
    "[/]",
    "\x1b[2J",
    "nan",
    [],
    [None],
    [[]],
    ["x"],
    {},
    {"x": 1},
    {"x": {}},
]


def places(value, place=()):
    """Yield every place in nested lists and dicts."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(item, (*place, key))


def changed(content, place, value):
    """Return nested content with a value in another place."""
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


@pytest.mark.parametrize("part", range(4))
def test_nothing_in_a_record_makes_a_command_fail(clbench, tmp_path, part):
    path = next(REFERENCE.glob("*_rkif_*_s1_*.json"))
    content, answers = json.loads(path.read_text("utf-8")), answer_bytes(answers_path(path))
    every = sorted(places(content), key=str)
    chooser = random.Random(part)
    folder = tmp_path / "results"
    folder.mkdir()
    RunFiles(folder, "good").write_record(record(), [])
    for number in range(60):
        place, value = chooser.choice(every), chooser.choice(VALUES)
        (folder / f"r{number}.json").write_text(json.dumps(changed(content, place, value)))
        (folder / f"r{number}.answers.jsonl").write_bytes(answers)
    for words in (["leaderboard", "--format", "latex"], ["compare"], ["leaderboard", "--significance"]):
        result = clbench(*words, "--results", folder)
        others = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        assert (result.exit_code, others) == (0, [])
    for path in sorted(folder.glob("r*.json")):
        for words in (["show"], ["rescore", "--results", folder]):
            result = clbench(words[0], path, *words[1:])
            others = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
            assert result.exit_code in (0, 2)
            assert all(not re.search(r"--traceback shows the whole", line) for line in others), (
                path.read_text(),
                others,
            )
