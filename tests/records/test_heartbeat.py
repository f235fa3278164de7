"""A run that is being made says so; what a dead process left behind holds nobody up."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from clbench.errors import RunHeldError
from clbench.records.files import RunFiles
from clbench.records.heartbeat import STALE, Beat, Heartbeat, Position, read_beat
from clbench.records.states import state_of_run


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path, "a_run")


def leave(files: RunFiles, process: int, host: str | None = None, age: float = 0.0) -> None:
    """Write the beat of another process."""
    import socket

    at = time.time() - age
    beat = Beat(host=host or socket.gethostname(), process=process, since=at - 5, at=at)
    files.heartbeat.write_bytes(msgspec.json.encode(beat))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_says_who_makes_the_run_and_how_far_it_is(files: RunFiles) -> None:
    assert read_beat(files) is None
    with Heartbeat(files) as heartbeat:
        heartbeat.note(Position(task=2, tasks=3, name="yahoo", doing="learn"))
        beat = read_beat(files)
        assert beat is not None
        assert (beat.process, beat.position.task, beat.position.name) == (os.getpid(), 2, "yahoo")
        assert state_of_run(files, False).state == "running"
    assert read_beat(files) is None
    assert list(files.folder.iterdir()) == []


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_a_living_holder_keeps_the_run(files: RunFiles, host: str | None) -> None:
    leave(files, os.getppid(), host)
    with pytest.raises(RunHeldError, match=str(os.getppid())), Heartbeat(files):
        raise AssertionError("the run is held")


def test_a_dead_holder_on_this_machine_holds_nothing(files: RunFiles) -> None:
    leave(files, ended_process())
    with Heartbeat(files):
        beat = read_beat(files)
        assert beat is not None
        assert beat.process == os.getpid()


def test_a_zombie_holds_nothing(files: RunFiles) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # until it has ended; nobody has asked for it yet
    leave(files, process.pid)
    for _ in range(100):
        if read_beat(files) is None:
            break
        time.sleep(0.05)
    assert read_beat(files) is None
    process.communicate()


@pytest.mark.parametrize(("age", "lives"), [(STALE / 2, True), (STALE + 1, False)])
def test_a_holder_on_another_machine_lives_while_it_beats(files: RunFiles, age: float, lives: bool) -> None:
    leave(files, ended_process(), "elsewhere", age)
    assert (read_beat(files) is not None) == lives


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"host": 1}', b"\xff"])
def test_a_damaged_beat_is_none(files: RunFiles, content: bytes) -> None:
    files.heartbeat.write_bytes(content)
    assert read_beat(files) is None


def test_what_has_become_of_a_run(files: RunFiles) -> None:
    assert state_of_run(files, False).state == "missing"
    files.checkpoint.write_bytes(b"")
    assert state_of_run(files, False).state == "begun"
    files.failure.write_text("a\nb\n")
    state = state_of_run(files, False)
    assert (state.state, state.failure) == ("failed", "a\nb")
    assert state_of_run(files, True).state == "done"


def test_a_position_in_a_line() -> None:
    learning = Position(
        task=3, tasks=15, name="yahoo", doing="learn", step=120, steps=315, loss=0.714, seconds_left=840.0
    )
    assert learning.text == "task 3/15 yahoo, step 120/315, loss 0.71, ETA 14 min"
    assert Position(task=1, tasks=2, name="imdb", doing="ask").text == "task 1/2 ask imdb"


def test_a_beat_that_cannot_be_written_ends_no_run(files: RunFiles) -> None:
    """A full disk or a folder that is gone is for the record to tell."""
    with Heartbeat(files) as beating:
        shutil.rmtree(files.folder)
        beating.note(Position(task=1, tasks=2, name="agnews", doing="learn"))
    assert read_beat(files) is None
