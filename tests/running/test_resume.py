"""A run killed anywhere goes on after its last finished task and ends as an uninterrupted one, bit for bit."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clbench.records.files import read_record
from clbench.records.record import Record
from tests.conftest import run_in_subprocess

KILLER = """
import os, signal
from clbench import hookimpl

@hookimpl
def train_step(learner, step, steps, loss):
    if learner.task_index == int(os.environ.get("KILL_IN_TASK", -1)) and step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def results_of(folder: Path) -> tuple[Record, str, dict[str, torch.Tensor]]:
    (record,) = folder.glob("*.json")
    (adapter,) = folder.glob("*.adapter")
    return (
        read_record(record),
        record.with_suffix(".answers.jsonl").read_text(),
        load_file(adapter / "adapter_model.safetensors"),
    )


@pytest.mark.parametrize("method", ["rkif"])
def test_kill_in_the_third_task(tiny_run, tmp_path, method):
    (tmp_path / "killer.py").write_text(KILLER)
    words = [
        *tiny_run,
        "--method",
        method,
        "--stream",
        "sst-2,agnews,imdb,yelp",
        "--plugin",
        "killer.py",
        "--save-adapter",
    ]
    words += ["--set", "window=1", "--set", "memory_ratio=0.2"]

    process = run_in_subprocess([*words, "--results", "killed"], tmp_path, KILL_IN_TASK="2")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, output
    killed = tmp_path / "killed"
    assert [path.suffix for path in killed.glob("[!.]*")] == [".checkpoint"]

    for folder in ("killed", "whole"):
        process = run_in_subprocess([*words, "--results", folder], tmp_path)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        assert ("going on after task 2 of 4" in output) == (folder == "killed")

    (record, answers, weights), (expected, expected_answers, expected_weights) = (
        results_of(tmp_path / folder) for folder in ("killed", "whole")
    )
    assert record.scores == expected.scores
    assert record.learned == expected.learned
    assert answers == expected_answers
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)
    assert not list(killed.glob("*.checkpoint"))
