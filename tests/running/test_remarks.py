"""A memory that keeps nothing is said before the run, one that a task does not come to after it; the leaderboard marks both."""

from dataclasses import replace

import pytest
import torch

from clbench.discovery import find_plugins
from clbench.learning.replay_memory import Memory
from clbench.learning.stopwatch import Cost
from clbench.records.files import read_record
from clbench.running.remarks import on_memory, on_replay

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
    grid = ["sweep", *tiny_run[1:], "--method", "lorareplay,seqlora", "--stream", "sst-2,agnews", "--dry-run"]
    assert " ".join(clbench(*grid).output.split()).count(f"warning: lorareplay: {NOTE}") == 1
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


def test_a_task_that_ends_before_old_rows_are_reached_is_said(clbench, tiny_run, tmp_path):
    words = [*tiny_run, "--method", "rkif", "--stream", "sst-2,agnews", "--set", "memory_ratio=0.2"]
    result = clbench(*words, "--set", "window=1000")  # a task has two steps
    note = "task 'agnews' was learned on no row of sst-2, of which some are kept; take more rows, or epochs"
    assert " ".join(result.output.split()).count(note) == 1
    (path,) = tmp_path.glob("results/*[0-9a-f].json")
    assert "nothing replayed" in read_record(path).marks
    assert "nothing replayed" in clbench("leaderboard", "--format", "csv").output
    assert "was learned on no row" not in clbench(*words, "--set", "window=1").output


def test_rows_that_a_method_takes_in_its_own_way_may_be_old_ones(toy_tasks):
    first, second = toy_tasks[:2]
    method, cost = PLUGINS.method("lorareplay"), Cost(torch.device("cpu"))
    options = method.resolve_options({"memory_ratio": 0.2})
    assert on_replay(method, options, [first], second, cost)
    assert not on_replay(method, options, [], first, cost)
    assert not on_replay(method, options, [first], first, cost)  # learned again: its own rows
    assert not on_replay(
        method, method.resolve_options({"memory_ratio": 0.01}), [first], second, cost
    )  # `empty memory`
    cost.other_rows = 1
    assert not on_replay(method, options, [first], second, cost)
