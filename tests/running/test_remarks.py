"""A memory that keeps nothing is said before the run, in the dry run, in the record and in the leaderboard."""

from dataclasses import replace

import pytest

from clbench.discovery import find_plugins
from clbench.learning.replay_memory import Memory
from clbench.records.files import read_record
from clbench.running.remarks import on_memory

PLUGINS = find_plugins()
NOTE = (
    "memory_ratio=0.02 of 16 training rows is less than one: nothing is remembered of 1 of 1 earlier tasks; "
    "take more rows, or a larger memory_ratio"
)


def test_an_empty_memory_is_said_everywhere(clbench, tiny_run, tmp_path):
    words = [*tiny_run, "--method", "lorareplay", "--stream", "sst-2,agnews"]
    assert f"warning: {NOTE}" in " ".join(clbench(*words, "--dry-run").output.split())
    result = clbench(*words)
    assert " ".join(result.output.split()).count(f"warning: {NOTE}") == 1
    (path,) = tmp_path.glob("results/*[0-9a-f].json")
    record = read_record(path)
    assert record.marks[0] == "empty memory"
    assert record.notes[0] == NOTE
    assert "empty memory" in clbench("leaderboard", "--format", "csv").output
    full = clbench(*words, "--set", "memory_ratio=0.2")
    assert full.exit_code == 0
    assert "is less than one" not in full.output


@pytest.mark.parametrize("rows", [1, 24])
@pytest.mark.parametrize("ratio", [0.01, 0.04, 1 / 24, 0.5, 1.0])
def test_it_is_said_exactly_where_the_memory_keeps_nothing(ratio, rows, toy_tasks):
    first = replace(toy_tasks[0], train=toy_tasks[0].train[:rows])
    method, memory = PLUGINS.method("lorareplay"), Memory()
    memory.remember(first, ratio, 0)
    options = method.resolve_options({"memory_ratio": ratio})
    assert bool(on_memory(method, options, [first, toy_tasks[1]])) == (not memory)
    assert not on_memory(method, options, [first])  # nobody comes back to the last task


def test_a_method_without_memory_is_not_spoken_of(toy_tasks):
    for name, given in (("seqlora", {}), ("migu", {"base": "seqlora"})):
        method = PLUGINS.method(name)
        assert not on_memory(method, method.resolve_options(given), toy_tasks)
