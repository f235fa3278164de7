"""Without a terminal, progress is a line a task on standard error, as text or as JSON."""

import json
from pathlib import Path

import pytest

from clbench.records.files import read_records


def test_a_line_a_task_on_standard_error(clbench, tiny_run: list[str]) -> None:
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2,agnews")
    assert result.exit_code == 0, result.output
    assert "seqlora, sst-2,agnews, seed 1: task 1/2 sst-2" in result.stderr
    assert "task 2/2 agnews, ETA" in result.stderr
    assert "task 1/2" not in result.stdout
    (record,) = read_records(Path("results"))
    assert [curve.of for curve in record.losses] == [2, 2]
    assert all(len(curve.losses) == 2 for curve in record.losses)


def test_lines_that_a_machine_reads_in_a_file_too(clbench, tiny_run: list[str]) -> None:
    words = ["--log-format", "json", "--log-file", "logs/run.jsonl", "-v"]
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2,agnews", *words)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [json.loads(line) for line in Path("logs/run.jsonl").read_text().splitlines()] == lines
    told = [(line["doing"], line["task"], line["name"]) for line in lines]
    asked = [("ask", 1, "sst-2"), ("ask", 2, "sst-2"), ("ask", 2, "agnews")]
    assert [one for one in told if one[0] == "ask"] == asked
    assert [one for one in told if one[0] == "learn"] == [("learn", 1, "sst-2"), ("learn", 2, "agnews")]
    assert {line["level"] for line in lines} == {"info", "debug"}


def test_quiet(clbench, tiny_run: list[str]) -> None:
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "-q")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


@pytest.mark.parametrize("words", [["-q", "-v"]])
def test_quiet_and_verbose_is_refused(clbench, tiny_run: list[str], words: list[str]) -> None:
    result = clbench(*tiny_run, "--method", "seqlora", *words)
    assert result.exit_code == 2
    assert "not both" in result.output
