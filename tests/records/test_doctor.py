"""`clbench doctor`: what it finds, and that it removes nothing that could be missed."""

import pytest

from clbench.records.answers import AnswerRow, compressed
from clbench.records.doctor import examine
from clbench.records.files import RunFiles
from tests.records.examples import record
from tests.records.test_heartbeat import ended_process, leave

RUN = "long-1_rkif_mini_toy_s1_01234567"  # as `RunFiles.of` names them


@pytest.fixture
def folder(tmp_path):
    answer = AnswerRow(after=0, task="agnews", row=0, answer="World", target="World")
    RunFiles(tmp_path, RUN).write_record(record(), [answer])
    return tmp_path


def faults(folder):
    return {one.path.name: (one.fault, one.removable, one.harmless) for one in examine(folder)}


def test_a_sound_folder_has_no_fault(folder):
    other = RunFiles(folder, RUN.replace("s1", "s2"))
    other.checkpoint.write_bytes(b"")  # of a run that goes on
    other.adapter.mkdir()
    assert faults(folder) == {}


def test_what_kills_leave_behind_is_removed(folder):
    files = RunFiles(folder, RUN)
    files.checkpoint.write_bytes(b"")
    (folder / f".{RUN}.json.0a.tmp").write_text("{")
    (folder / f".{RUN}.adapter.0a.tmp").mkdir()
    (folder / f".{RUN}.adapter.0a.tmp" / "x").write_text("")
    (folder / f".{RUN}.lock").write_text("")
    found = faults(folder)
    assert found == {
        f"{RUN}.checkpoint": ("the checkpoint of a run that is finished", True, False),
        f".{RUN}.json.0a.tmp": ("left behind by a process that was killed", True, False),
        f".{RUN}.adapter.0a.tmp": ("left behind by a process that was killed", True, False),
        f".{RUN}.lock": ("a lock that nobody holds", True, True),
    }
    for one in examine(folder):
        one.remove()
    assert sorted(path.name for path in folder.iterdir()) == [f"{RUN}.answers.jsonl", f"{RUN}.json"]


def test_what_a_process_holds_is_left_alone(folder):
    files = RunFiles(folder, RUN)
    files.checkpoint.write_bytes(b"")
    (folder / f".{RUN}.json.0a.tmp").write_text("{")
    with files.lock():
        assert faults(folder) == {}
    assert len(faults(folder)) == 3
    leave(files, 1, "elsewhere")  # without a lock, as on a file system that has none
    assert faults(folder) == {}
    leave(files, ended_process())
    assert faults(folder)[files.heartbeat.name] == ("left behind by a process that was killed", True, False)


def test_bad_records_are_removed_if_they_are_clbench_s(folder):
    (folder / f"{RUN}.json").write_text("{")
    (folder / "notes.json").write_text("{")
    (folder / "old_s1_01234567.json").write_text('{"schema_version": 1}')
    (folder / "folder_s1_01234567.json").mkdir()
    (folder / "link_s1_01234567.json").symlink_to(folder / "nowhere")
    removable = {name: found[1] for name, found in faults(folder).items()}
    assert removable == {
        f"{RUN}.json": True,
        "notes.json": False,
        "old_s1_01234567.json": False,  # it can be converted
        "folder_s1_01234567.json": False,
        "link_s1_01234567.json": True,
    }


def test_compressed_answers_are_answers(folder):
    answers = RunFiles(folder, RUN).answers
    answers.rename(compressed(answers))
    (folder / "x.answers.jsonl.gz").write_text("")
    assert set(faults(folder)) == {"x.answers.jsonl.gz"}


def test_parts_without_their_whole(folder):
    RunFiles(folder, RUN).answers.unlink()
    (folder / "x.answers.jsonl").write_text("")
    found = faults(folder)
    assert found[f"{RUN}.json"][:2] == (
        "a record without its answers; the same `clbench run` makes both anew",
        False,
    )
    assert found["x.answers.jsonl"][:2] == ("belongs to no record and to no unfinished run", False)
