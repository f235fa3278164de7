"""How commands end: one line and an exit code, whatever is raised and wherever the text goes."""

import os
import subprocess
import sys

import pytest

from clbench.cli import doctor, records
from clbench.records.files import RunFiles
from tests.conftest import run_in_subprocess
from tests.records.examples import record

PLUGIN = """
import sys
from clbench import hookimpl

class M:
    def __init__(self):
        {init}

    @hookimpl
    def attach(self, learner):
        {attach}
        learner.attached.add_lora()
        return True

    @hookimpl
    def learn_task(self, learner, task):
        {learn}
        return {{}}

    @hookimpl
    def evaluate(self, learner, task):
        {evaluate}

@hookimpl
def methods():
    {methods}
    return {{"m": M}}
"""


def write_plugin(path, **bodies):
    names = ("init", "attach", "learn", "evaluate", "methods")
    path.write_text(PLUGIN.format(**{name: bodies.get(name, "pass") for name in names}))
    return path


class StrangeError(BaseException):
    """An error that is no Exception."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("broken\nin two"), 2, "error: RuntimeError: broken in two ("),
        (OSError(28, "No space left on device", "/x/y"), 2, "error: /x/y: No space left on device"),
        (SystemExit(0), 2, "error: SystemExit: 0, raised in "),
        (EOFError(), 2, "error: EOFError:"),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: "),
        (RecursionError("deep"), 2, "error: RecursionError: deep"),
        (StrangeError("odd"), 2, "error: StrangeError: odd"),
        (KeyboardInterrupt(), 130, "interrupted; "),
    ],
)
def test_any_exception_is_one_line(clbench, monkeypatch, error, code, message):
    def fail(*args, **more):
        raise error

    monkeypatch.setattr(records, "show_leaderboard", fail)
    result = clbench("leaderboard")
    assert result.exit_code == code
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    shown = clbench("leaderboard", "--traceback")
    assert shown.exit_code == code
    assert "Traceback (most recent call last)" in shown.stderr


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        ({"methods": "sys.exit()"}, "methods() failed: SystemExit:"),
        ({"init": "sys.exit(0)"}, "refuses its options: SystemExit: 0"),
        ({"init": "raise MemoryError"}, "refuses its options: MemoryError:"),
        ({"attach": "1 / 0"}, "method 'm' failed to attach its weights: ZeroDivisionError: division by zero"),
        ({"learn": "sys.exit(0)"}, "method 'm' failed on task 'sst-2': SystemExit: 0"),
        ({"learn": "raise GeneratorExit"}, "method 'm' failed on task 'sst-2': GeneratorExit:"),
        ({"evaluate": "sys.exit(0)"}, "method 'm' failed to answer task 'sst-2': SystemExit: 0"),
        ({"evaluate": "return [chr(0xd800)] * 8"}, "method 'm' failed to answer task 'sst-2': UnicodeEncodeError:"),
    ],
    ids=str,
)
def test_a_plugin_s_fault_names_the_plugin_file_and_line(clbench, tmp_path, tiny_run, bodies, message):
    file = write_plugin(tmp_path / "m.py", **bodies)
    result = clbench(*tiny_run, "--method", "m", "--stream", "sst-2", "--plugin", file)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    if "evaluate" not in bodies or "exit" in bodies["evaluate"]:
        line = next(n for n, text in enumerate(file.read_text().split("\n"), 1) if next(iter(bodies.values())) in text)
        assert f"({file}, line {line})" in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("results/*.json"))


def test_a_failing_seed_does_not_stop_the_others(clbench, tmp_path, tiny_run):
    file = write_plugin(
        tmp_path / "m.py", learn="assert learner.settings.seed != 1, 'on purpose'", evaluate="return ['Good'] * 8"
    )
    result = clbench(*tiny_run, "--method", "m", "--stream", "sst-2", "--plugin", file, "--seeds", "3")
    assert result.exit_code == 2
    assert len(list(tmp_path.glob("results/*.json"))) == 2
    assert "Leaderboard" in result.stdout
    assert "error: 1 of 3 runs failed; the first: m, sst-2, seed 1: method 'm' failed" in result.stderr


def test_a_closed_pipe_does_not_stop_a_run(tmp_path, tiny_run):
    run = run_in_subprocess([*tiny_run, "--method", "seqlora", "--stream", "sst-2"], tmp_path)
    run.stdout.read(1)
    run.stdout.close()
    assert run.wait() == 0
    assert len(list(tmp_path.glob("results/*.json"))) == 1


def test_a_plugin_that_closes_the_output_does_not_stop_a_run(tmp_path, tiny_run):
    file = write_plugin(
        tmp_path / "m.py", learn="sys.stdout.close(); sys.stderr.close()", evaluate="return ['Good'] * 8"
    )
    run = run_in_subprocess([*tiny_run, "--method", "m", "--stream", "sst-2", "--plugin", str(file)], tmp_path)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert "Leaderboard" in output
    assert len(list(tmp_path.glob("results/*.json"))) == 1


def command(words, **environment):
    code = "from clbench.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], env={**os.environ, **environment}, capture_output=True, timeout=120
    )


def test_a_console_of_another_encoding(tmp_path):
    RunFiles(tmp_path, "r").write_record(record("m→ü", options={"a": "漢"}), [])
    for style in ("table", "md", "json"):
        for encoding in ("cp1252", "ascii"):
            result = command(["leaderboard", "--results", tmp_path, "--format", style], PYTHONIOENCODING=encoding)
            assert result.returncode == 0, result.stderr
            assert b"m\\u2192" in result.stdout


def test_an_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        code = "from clbench.cli.main import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", code, "streams"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert result.returncode == 2
    assert result.stderr == "error: No space left on device\n"


@pytest.mark.parametrize("results", ["", "a\0b", "x" * 300, "/dev/null", "/dev/null/x", "\udcff"])
def test_a_results_folder_that_cannot_be(clbench, tiny_run, results):
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--results", results)
    if results == "\udcff":  # a name that is no text is a name all the same
        assert result.exit_code == 0, result.output
        return
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--backbone", "\udcff"], ["--data", "[/]"], ["--stream", "[/]"], ["--order", ""], ["--method", "[/]"],
        ["--threads", "100000"], ["--epochs", "10000000000000000000000000"], ["--epochs", "1000000000"],
        ["--lora-rank", "100000"], ["--pad-multiple", "1000000"], ["--device", "\0"], ["--set", "[/]=1"], ["--preset", "[/]"],
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_be(clbench, tiny_run, words):
    result = clbench(*tiny_run, *([] if "--method" in words else ["--method", "seqlora"]), *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr


def test_names_with_markup_are_names(clbench, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made = record("[/]", options={"[bold]": "[/red]"}, fields={"tasks": [{"name": "[/x]", "version": 1}]})
    RunFiles(tmp_path, "r").write_record(made, [])
    assert "[/] ([bold]=[/red])" in clbench("leaderboard", "--results", tmp_path).stdout.replace("\n", " ")
    shown = clbench("show", "r", "--results", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "1 [/x]" in shown.stdout


def test_warnings_are_said_once_and_in_a_line(clbench, tmp_path):
    RunFiles(tmp_path, "r").write_record(record(), [])
    (tmp_path / "notes.json").write_text("{")
    result = clbench("leaderboard", "--results", tmp_path, "--stream", "long")  # reads the folder twice
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"warning: passed over: {tmp_path / 'notes.json'}: ")


def test_doctor_ends_with_what_stays(clbench, tmp_path):
    assert doctor.doctor.name == "doctor"
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / ".r.json.aa.tmp").write_text("")
    first = clbench("doctor", tmp_path)
    assert (first.exit_code, first.stdout.count("\n")) == (1, 3)
    assert "2 faults" in first.stdout
    assert (tmp_path / ".r.json.aa.tmp").exists()
    second = clbench("doctor", tmp_path, "--remove")
    assert second.exit_code == 1
    assert "1 fault\n" in second.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]  # not clbench's: it stays
    (tmp_path / "notes.json").unlink()
    assert clbench("doctor", tmp_path).exit_code == 0


def test_a_record_that_is_removed_before_the_command_ends_is_missed(clbench, tiny_run, tmp_path, monkeypatch):
    def show(console, results, family):
        for path in results.glob("*.json"):
            path.unlink()

    monkeypatch.setattr("clbench.cli.run.show_leaderboard", show)
    result = clbench(*tiny_run, "--stream", "sst-2", "--method", "seqlora", "--results", tmp_path)
    assert result.exit_code == 2
    assert "this record was written, and removed by another program" in result.output
