"""The same grid on Ray and on submitit gives the records that it gives alone (`-m engines`). Kills: `test_killed_sweep`."""

import random
from pathlib import Path

import pytest

from clbench.records.files import RunFiles
from clbench.running.engines.ray import read_files
from tests.running.test_killed_sweep import compare_with_alone, write_grid


@pytest.mark.engines
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the debug executor leaves its logs open
@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_submitit(clbench, tiny_folder: Path, tmp_path: Path, cluster: str) -> None:
    grid = write_grid(tmp_path, tiny_folder, ["seqlora"], seeds=2)
    result = clbench("sweep", grid, "--engine", "slurm", "--slurm", f"cluster={cluster}", "--slurm", "timeout_min=5")
    assert result.exit_code == 0, result.output
    compare_with_alone(grid, tmp_path)


@pytest.mark.engines
def test_ray_brings_files_back_where_no_folder_is_shared(tmp_path: Path, tiny_folder: Path) -> None:
    from clbench.discovery import find_plugins
    from clbench.grid import read_grid
    from clbench.running.engines.ray import make
    from clbench.running.worker import Setup

    (spec,) = read_grid(write_grid(tmp_path, tiny_folder, ["seqlora"], seeds=1)).expand(find_plugins())
    made = make(Setup(str(tmp_path / f"elsewhere{random.random()}"), save_adapter=True), spec, ".no.probe")
    assert made.outcome.state == "done"
    names = list(made.files)
    assert names[-1].endswith(".json")
    assert {Path(name).suffix for name in names} >= {".json", ".jsonl", ".safetensors"}


def test_the_record_comes_last(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, "a")
    files.adapter.mkdir()
    for path in (files.record, files.answers, files.adapter / "x", tmp_path / "b.json", files.checkpoint):
        path.write_text(path.name)
    assert list(read_files(files).items()) == [
        ("a.answers.jsonl", b"a.answers.jsonl"),
        ("a.adapter/x", b"x"),
        ("a.json", b"a.json"),
    ]
