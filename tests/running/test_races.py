"""Two processes and one run; locks that cannot be had; a folder that is deleted in the middle."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError, RunHeldError
from clbench.hookspecs import hookimpl
from clbench.records.files import RunFiles
from clbench.running.maker import RunMaker
from clbench.running.opening import RunOpener
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import TINY
from tests.records.test_heartbeat import leave


@pytest.fixture
def spec(tiny_folder):
    settings = {**TINY, "backbone": str(tiny_folder), "stream": "sst-2", "limit_train": 8, "limit_test": 4, "epochs": 1}
    return RunSpec("seqlora", {}, Settings(**settings))


def maker(folder, **more):
    return RunMaker(Console(quiet=True), RunOpener(find_plugins(), folder), **more)


def test_what_another_process_has_finished_meanwhile_is_not_made_again(tmp_path, spec, monkeypatch):
    first, second = maker(tmp_path), maker(tmp_path)
    files = second.opener.open(spec).files
    lock = RunFiles.lock

    def late(self):  # the other process finishes between the first look and the lock
        monkeypatch.setattr(RunFiles, "lock", lock)
        first.make(spec)
        return lock(self)

    monkeypatch.setattr(RunFiles, "lock", late)
    second.make(spec)
    assert second._loaded is None  # not even a backbone was loaded
    assert files.are_complete(with_adapter=False, with_maps=False)


def test_force_touches_nothing_before_it_holds_the_lock(tmp_path, spec):
    forced = maker(tmp_path, force=True)
    files = forced.opener.open(spec).files
    tmp_path.mkdir(exist_ok=True)
    with files.lock():
        files.checkpoint.write_bytes(b"of the other process")
        with pytest.raises(ClbenchError, match="is being made by another process"):
            forced.make(spec)
        assert files.checkpoint.read_bytes() == b"of the other process"
    forced.make(spec)
    assert not files.checkpoint.exists()


@pytest.mark.parametrize("moment", ["learn_task", "evaluate"])
@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted and made again"])
def test_a_folder_deleted_in_the_middle_is_an_error(tmp_path, spec, monkeypatch, moment, again):
    folder = tmp_path / "results"

    class Deletes:
        pass

    def delete(self, learner, task):
        shutil.rmtree(folder)
        if again:
            folder.mkdir()
        return (yield)

    setattr(Deletes, moment, hookimpl(wrapper=True)(delete))
    making = maker(folder, save_adapter=True)
    monkeypatch.setattr(RunMaker, "watchers", lambda self, spec: [Deletes()])
    with pytest.raises(ClbenchError, match=r"cannot be written|was removed while the run was made"):
        making.make(spec)
    assert folder.exists() is again


def test_an_answerless_record_is_not_finished(tmp_path, spec):
    making = maker(tmp_path)
    making.make(spec)
    files = making.opener.open(spec).files
    files.answers.unlink()
    making.make(spec)
    assert files.answers.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_the_heartbeat_alone_tells_who_makes_a_run(tmp_path, monkeypatch, spec, code):
    def refuse(*given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    making = maker(tmp_path)
    files = making.opener.open(spec).files
    tmp_path.mkdir(exist_ok=True)
    leave(files, 1, "elsewhere")
    with pytest.raises(RunHeldError, match="process 1 on elsewhere"):
        making.make(spec)
    leave(files, 1, "elsewhere", age=1000.0)
    making.make(spec)
    assert files.record.exists()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMFILE])
def test_a_lock_that_cannot_be_had(tmp_path, monkeypatch, code):
    def refuse(*given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(ClbenchError, match=r"\.x\.lock: cannot be locked \(.*\); --results on a local disk can"),
        RunFiles(tmp_path, "x").lock(),
    ):
        pass


def test_a_link_in_the_place_of_a_lock(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".x.lock").symlink_to(victim)
    with pytest.raises(ClbenchError, match="a link stands where a lock is to be"), RunFiles(tmp_path, "x").lock():
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, spec, monkeypatch, call):
    making, real = maker(tmp_path, save_adapter=True), getattr(os, call)

    def full(*given, **more):
        if call == "open" and not str(given[0]).endswith(".tmp"):
            return real(*given, **more)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as during:
        during.setattr(os, call, full)
        with pytest.raises(ClbenchError, match="cannot be written: No space left on device"):
            making.make(spec)
    assert not [path for path in Path(tmp_path).iterdir() if not path.name.endswith(".lock")]
    making.make(spec)
    assert making.opener.open(spec).files.are_complete(with_adapter=True, with_maps=False)
