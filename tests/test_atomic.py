"""Writing in one step: no planted link is followed, nothing is left over, a folder that is gone stays gone."""

import errno
import os
import shutil

import pytest

from clbench.atomic import LEFTOVER, make_folder, read_file, write_atomically, write_folder_atomically
from clbench.errors import ClbenchError


def test_temporary_names_cannot_be_foreseen_and_are_gone_afterwards(tmp_path):
    names = []

    def write(temporary):
        assert temporary.exists()  # made by nobody else: O_EXCL
        names.append(temporary.name)
        temporary.write_text("x")

    for _ in range(2):
        write_atomically(tmp_path / "f", write)
    assert names[0] != names[1]
    assert all(name.startswith(".f.") and name.endswith(LEFTOVER) for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_planted_link_is_not_written_through(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda count: "known")  # as if the name were foreseen
    (tmp_path / f".f.known{LEFTOVER}").symlink_to(victim)
    with pytest.raises(ClbenchError, match="f: cannot be written: File exists"):
        write_atomically(tmp_path / "f", lambda temporary: temporary.write_text("x"))
    assert victim.read_text() == "precious"


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "f").symlink_to(victim)
    write_atomically(tmp_path / "f", lambda temporary: temporary.write_text("x"))
    assert victim.read_text() == "precious"
    assert (tmp_path / "f").read_text() == "x"
    assert not (tmp_path / "f").is_symlink()


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "a").symlink_to(victim)
    with pytest.raises(ClbenchError, match="a: a link or a file stands where a folder is to be written; remove it"):
        write_folder_atomically(tmp_path / "a", lambda temporary: (temporary / "x").write_text("x"))
    assert not list(victim.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "victim"]


def test_a_folder_replaces_an_older_one(tmp_path):
    for text in ("old", "new"):
        write_folder_atomically(tmp_path / "a", lambda temporary, text=text: (temporary / text).write_text(text))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]


def test_a_folder_that_vanishes_while_it_is_written_is_not_taken_for_whole(tmp_path):
    def write(temporary):
        (temporary / "first").write_text("x")
        shutil.rmtree(temporary)
        temporary.mkdir()  # as many a library does
        (temporary / "second").write_text("y")

    with pytest.raises(ClbenchError, match="a: cannot be written: No such file"):
        write_folder_atomically(tmp_path / "a", write)
    assert not (tmp_path / "a").exists()


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    for write in (write_atomically, write_folder_atomically):
        with pytest.raises(ClbenchError, match=r"f: cannot be written: No such file or directory \(there is no folder"):
            write(tmp_path / "gone" / "f", lambda temporary: None)
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    (tmp_path / "f").write_text("old")

    def fill(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ClbenchError, match="f: cannot be written: No space left on device"):
        write_atomically(tmp_path / "f", fill)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "old")]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/sub"])
def test_a_folder_that_cannot_be_made(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClbenchError, match="cannot be made a folder"):
        make_folder(tmp_path / name)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            read_file(path)


def test_what_is_no_file_is_not_replaced(tmp_path):
    """Root could: /dev/null would be a file from then on."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ClbenchError, match="is no regular file, and so cannot be replaced"):
            write_atomically(path, lambda temporary: temporary.write_text("content"))
    assert not (tmp_path / "pipe").is_file()
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]
