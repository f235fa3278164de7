"""What a record says of where its run was made: the commit of clbench's own checkout alone, the memory of one run alone."""

import subprocess

import pytest
import torch

from clbench.running.environment import describe_environment, git_commit
from clbench.running.peak_memory import PeakMemoryMeter

CPU = torch.device("cpu")


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository with a package `clbench` at its top, committed, and one in its virtual environment, ignored."""
    for place in ("clbench", ".venv/lib/clbench", "vendored/clbench"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "__init__.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "init", "-q")
    return tmp_path


def test_the_commit_is_that_of_clbenchs_own_checkout(repository):
    assert git_commit(repository / "clbench") is None  # not tracked yet
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "x")
    commit = git_commit(repository / "clbench")
    assert commit is not None
    assert len(commit) == 12
    (repository / "clbench" / "__init__.py").write_text("# changed\n")
    assert git_commit(repository / "clbench") == f"{commit}+"


def test_a_users_repository_is_not_recorded(repository):
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "x")
    assert git_commit(repository / ".venv" / "lib" / "clbench") is None
    assert git_commit(repository / "vendored" / "clbench") is None


def test_the_environment_names_the_version_of_clbench():
    import clbench

    found = describe_environment(CPU, torch.float32, ("a plugin",))
    assert (found.clbench, found.precision, found.plugins) == (clbench.__version__, "float32", ("a plugin",))
    assert found.versions["torch"] == torch.__version__


def test_the_memory_of_a_run_is_not_that_of_an_earlier_one():
    meter = PeakMemoryMeter(CPU)
    if meter.of != "run":
        pytest.skip("the high-water mark cannot be reset here")
    block = torch.ones(64 * 2**20)  # 256 MiB
    assert block[-1] == 1
    first = meter.read()
    del block
    second = PeakMemoryMeter(CPU).read()
    assert first - second > 200 * 2**20


def test_where_it_cannot_be_reset_the_record_says_process(monkeypatch, tmp_path):
    monkeypatch.setattr("clbench.running.peak_memory.RESET", tmp_path / "not" / "there")
    meter = PeakMemoryMeter(CPU)
    assert meter.of == "process"
    assert meter.read() > 0
