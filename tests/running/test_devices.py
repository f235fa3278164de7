"""One run shared by several processes: the numbers of one process, one record, one clear end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clbench.cli.ending import _check_shared
from clbench.errors import ClbenchError
from clbench.model.devices import ALONE, Devices
from clbench.records.files import RunFiles, read_record
from clbench.running.remarks import on_processes
from clbench.settings import Settings
from tests.conftest import ROOT
from tests.running.devices_program import CASES, FAULTY, OTHER_NUMBERS, REFUSED, SETTINGS, make_all

PROGRAM = ROOT / "tests" / "running" / "devices_program.py"
RUN = ["--stream", "sst-2,agnews"]
for _name, _value in SETTINGS.items():
    if _name != "stream":
        RUN += [f"--{_name.replace('_', '-')}", str(_value)]


def start(number: int, port: int, words: list[object], folder: Path) -> subprocess.Popen[str]:
    """Start one of two processes as torchrun does."""
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **{k: str(v) for k, v in place.items()},
    }
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ends(started: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Return exit code, standard output and error of each process when all have ended; none outlives this."""
    try:
        said = [process.communicate(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


@pytest.fixture
def both(free_port, tmp_path):
    """A function that runs the command in two processes; it returns exit code, standard output and error of each."""

    def call(*words: object) -> list[tuple[int, str, str]]:
        return ends([start(number, free_port, ["-m", "clbench", *words], tmp_path) for number in range(2)])

    return call


@dataclass
class Results:
    """What one process made, and what two made together, in a folder each."""

    alone: Path
    shared: Path
    names: dict[str, str]
    of_process: list[dict[str, str]]


@pytest.fixture(scope="module")
def results(tiny_folder, tmp_path_factory, free_port) -> Results:
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    (shared / "faulty.py").write_text(FAULTY)
    started = [start(number, free_port, [PROGRAM, tiny_folder, shared], shared) for number in range(2)]
    names = make_all(ALONE, tiny_folder, alone)
    for code, _, said in ends(started):
        assert code == 0, said
    return Results(alone, shared, names, [json.loads((shared / f"{number}.json").read_text()) for number in range(2)])


def check_same_weights(found: RunFiles, known: RunFiles) -> None:
    """Check that what was trained is the same within 1e-5, and the method's state within rounding."""
    for path in known.adapter.glob("*.safetensors"):
        tensors, of = load_file(found.adapter / path.name), load_file(path)
        assert tensors.keys() == of.keys()
        rounding = 1e-4 if path.name == "method.safetensors" else 0
        for name, tensor in of.items():
            assert torch.allclose(tensors[name], tensor, atol=1e-5, rtol=rounding), f"{path.name}: {name}"


@pytest.mark.parametrize("case", [case for case in CASES if case not in OTHER_NUMBERS])
def test_two_processes_learn_and_answer_as_one(results, case):
    name = results.names[case]
    assert results.of_process[0][case] == name
    one, two = (RunFiles(folder, name) for folder in (results.alone, results.shared))
    check_same_weights(two, one)
    assert two.answers.read_text() == one.answers.read_text()
    known, found = read_record(one.record), read_record(two.record)
    assert (found.scores, found.verified_answers) == (known.scores, known.verified_answers)
    for curve, of in zip(found.losses, known.losses, strict=True):
        assert curve.losses == pytest.approx(of.losses, abs=1e-4)
    for report, of in zip(found.learned, known.learned, strict=True):
        assert report == pytest.approx(of, rel=1e-4)


def test_the_methods_of_the_issue_take_twenty_steps_and_some_rows_wait_for_nobody(results):
    for case in ("seqlora", "lorareplay", "rkif", "olora", "ewc", "tasl", "vrmcl"):
        record = read_record(RunFiles(results.shared, results.names[case]).record)
        assert sum(report["steps"] or 0 for report in record.learned) >= 20
        assert record.tasks[0].train % 8 == 1  # the last batch has one row for two


def test_there_is_one_record_and_it_says_how_many_processes_made_it(results):
    found, known = (
        read_record(RunFiles(folder, results.names["seqlora"]).record) for folder in (results.shared, results.alone)
    )
    assert (found.environment.processes, known.environment.processes) == (2, 1)
    assert on_processes(2) in found.notes
    assert on_processes(2) not in known.notes
    assert found.marks == known.marks
    assert found.identity == known.identity
    cost, of = found.costs[1], known.costs[1]
    assert (cost.rows, cost.replayed_rows, cost.held_bytes) == (of.rows, of.replayed_rows, of.held_bytes)
    assert (cost.forward_batches, cost.forward_rows) == (
        2 * of.forward_batches,
        of.forward_rows + 4,
    )  # 4 epochs' last rows
    kept = {path.name for path in results.shared.glob("sst-2*.json")}
    assert kept == {f"{results.of_process[0][case]}.json" for case in CASES}


def test_all_processes_end_alike(results):
    assert results.of_process[0] == results.of_process[1]


def test_what_is_drawn_at_random_is_the_first_ones(results):
    for case in OTHER_NUMBERS:
        assert read_record(RunFiles(results.shared, results.of_process[0][case]).record).environment.processes == 2


@pytest.mark.parametrize("case", REFUSED)
def test_other_methods_are_refused(results, case):
    said = results.of_process[0][case]
    assert "several devices" in said
    assert REFUSED[case][0] in said


@pytest.mark.parametrize(("case", "what"), [("alone", "numbers that it reports"), ("random", "weights")])
def test_a_method_that_claims_it_wrongly_fails(results, case, what):
    assert f"method '{case}' on task 'sst-2': the processes do not agree on the {what}" in results.of_process[0][case]


def test_bad_input_is_one_line_of_the_first_process(both):
    first, second = both("run", "--method", "seqlora", "--epochs", 0)
    assert first[:2] == (2, "")
    (line,) = first[2].splitlines()
    assert line.startswith("error: ")
    assert "epochs" in line
    assert second == (2, "", "")


FAILS_ALONE = """
import os, signal
from clbench import hookimpl

@hookimpl
def train_step(learner, step, steps, loss):
    if learner.devices.number == 1 and learner.task_index == 1 and step == 2:
        if "KILLED" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("only here")
"""


def test_the_first_process_says_why_another_one_fails(both, tiny_folder, tmp_path):
    (tmp_path / "fails.py").write_text(FAILS_ALONE)
    first, second = both("run", "--method", "seqlora", "--backbone", tiny_folder, "--plugin", "fails.py", "-q", *RUN)
    assert first[0] == 2
    (line,) = first[2].splitlines()
    assert line.startswith("error: process 1 of 2: method 'seqlora' failed on task 'agnews': ValueError: only here")
    assert second == (2, "", "")
    assert [path.suffix for path in (tmp_path / "results").glob("[!.]*")] == [".checkpoint"]


def test_torchrun_after_a_kill_goes_on(both, tiny_folder, tmp_path, results, monkeypatch):
    """The second process is killed; the same command, by `torchrun`, goes on and ends as one process does."""
    (tmp_path / "fails.py").write_text(FAILS_ALONE)
    words = ["run", "--method", "seqlora", "--backbone", tiny_folder, *RUN, "--save-adapter", "--results", tmp_path]
    monkeypatch.setenv("KILLED", "1")
    first, second = both(*words, "--plugin", "fails.py")
    assert second[0] == -signal.SIGKILL
    assert first[0] == 2
    assert "another process of this run has ended" in first[2]
    monkeypatch.delenv("KILLED")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clbench"]
    again = subprocess.run(
        list(map(str, [*program, *words])), cwd=tmp_path, text=True, capture_output=True, timeout=900
    )
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("going on after task 1 of 2") == 1
    name = results.names["seqlora"]
    check_same_weights(RunFiles(tmp_path, name), RunFiles(results.alone, name))


def test_one_device_for_all_is_refused():
    devices = Devices(1, 2)
    assert devices.placed(Settings(device="cpu")).device == "cpu"
    with pytest.raises(ClbenchError, match="cuda:0 is one device for 2 processes"):
        devices.placed(Settings(device="cuda:0"))
    assert ALONE.placed(Settings(device="cuda:0")).device == "cuda:0"


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Devices(7, 8).placed(Settings()).device == "cuda:3"


def test_other_commands_are_refused():
    _check_shared(["run", "--method", "seqlora"], Devices(0, 2))
    _check_shared(["--help"], Devices(0, 2))
    _check_shared(["leaderboard"], None)
    with pytest.raises(ClbenchError, match="2 processes of `clbench leaderboard`"):
        _check_shared(["leaderboard"], Devices(0, 2))
