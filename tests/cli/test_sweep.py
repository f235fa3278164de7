"""`clbench sweep`: a grid by options or from a file; its plan, its state, and the exit code that says that runs failed."""

import gzip
import json
from pathlib import Path

import pytest

import clbench as package
from clbench.errors import ClbenchError
from tests.conftest import TINY
from tests.records.test_heartbeat import leave

BROKEN = """
from clbench import hookimpl
class Broken:
    @hookimpl
    def learn_task(self, learner, task):
        raise ValueError("on purpose")
@hookimpl
def methods():
    return {"broken": Broken}
"""


@pytest.fixture
def grid(tmp_path: Path, tiny_folder: Path) -> Path:
    """A grid of four runs on one small task, two of which fail."""
    settings = {**TINY, "backbone": str(tiny_folder), "limit_train": 8, "limit_test": 4, "epochs": 1}
    (tmp_path / "broken.py").write_text(BROKEN)
    path = tmp_path / "grid.toml"
    path.write_text(
        "methods = ['seqlora', 'broken']\nstreams = ['sst-2']\nseeds = 2\nplugins = ['broken.py']\n[settings]\n"
        + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    )
    return path


def compress(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def states(result) -> dict[tuple[str, int], str]:
    return {(run["method"], run["seed"]): run["state"] for run in json.loads(result.stdout)}


def test_the_life_of_a_grid(clbench, grid: Path) -> None:
    plan = clbench("sweep", grid, "--dry-run", "--format", "json")
    assert plan.exit_code == 0, plan.output
    assert set(states(plan).values()) == {"missing"}
    assert not Path("results").exists()

    made = clbench("sweep", grid, "--retries", "1")
    assert made.exit_code == 2, made.output
    assert "2 of 4 runs failed" in made.stderr
    assert "on purpose" in made.stderr
    assert made.stderr.count("it is tried again") == 2
    assert "2 of 4: seqlora, sst-2, seed" in made.stdout
    assert len(list(Path("results").glob("*.json"))) == 2

    state = clbench("sweep", "status", grid, "--format", "json")
    assert state.exit_code == 0, state.output
    assert states(state) == {
        (m, s): "done" if m == "seqlora" else "failed" for m in ("seqlora", "broken") for s in (1, 2)
    }
    failure = next(run["failure"] for run in json.loads(state.stdout) if run["state"] == "failed")
    assert "ValueError: on purpose" in failure
    shown = " ".join(clbench("sweep", "status", grid).output.split())
    assert "4 runs: 2 done, 2 failed" in shown

    Path("broken.py").write_text(BROKEN.replace('raise ValueError("on purpose")', "return {}"))
    compress(next(Path("results").glob("*.answers.jsonl")))  # as a user may who keeps many
    again = clbench("sweep", grid, "--method", "seqlora")
    assert again.exit_code == 0, again.output
    assert "2 of 2 runs are done already" in again.stdout


def test_status_of_a_run_that_is_being_made(clbench, grid: Path) -> None:
    from clbench.records.files import RunFiles

    plan = json.loads(clbench("sweep", grid, "--dry-run", "--format", "json").stdout)
    Path("results").mkdir()
    leave(RunFiles(Path("results"), plan[0]["run"]), 4711, "elsewhere")
    state = clbench("sweep", "status", grid, "--format", "json")
    assert sorted(states(state).values()) == ["missing", "missing", "missing", "running"]
    assert "elsewhere, process 4711" in " ".join(clbench("sweep", "status", grid).output.split())


def test_a_grid_by_options_alone(clbench) -> None:
    plan = clbench(*"sweep --method seqlora,mtl --order 1,2 --seeds 3 --epochs 2 --dry-run --format json".split())
    assert plan.exit_code == 0, plan.output
    runs = json.loads(plan.stdout)
    assert {(run["method"], run["stream"], run["seed"], run["settings"]["epochs"]) for run in runs} == {
        (method, stream, seed, 2)
        for method in ("seqlora", "mtl")
        for stream in ("standard:1", "standard:2")
        for seed in (1, 2, 3)
    }
    shown = clbench(*"sweep --method seqlora,mtl --order 1,2 --seeds 3 --dry-run".split())
    assert "12 runs: 12 missing" in shown.output


def test_a_forecast_of_the_missing_runs(clbench, grid: Path) -> None:
    plan = clbench("sweep", grid, "--method", "seqlora", "--dry-run", "--calibrate", "--jobs", "3")
    assert plan.exit_code == 0, plan.output
    assert "2 runs: 2 missing" in plan.stdout
    assert "one run after another" in plan.stdout
    assert "with --jobs 3" in plan.stdout
    assert not Path("results").exists()
    refused = clbench("sweep", grid, "--calibrate")
    assert refused.exit_code == 2
    assert "--dry-run" in refused.output


def test_options_replace_what_the_file_says(clbench, grid: Path) -> None:
    plan = clbench(
        "sweep", grid, "--seeds", "5,", "--epochs", "3", "--stream", "agnews", "--dry-run", "--format", "json"
    )
    assert {(run["stream"], run["seed"], run["settings"]["epochs"]) for run in json.loads(plan.stdout)} == {
        ("agnews", 5, 3)
    }


def test_a_new_grid_is_written_once(clbench) -> None:
    assert clbench("sweep", "new", "mine.toml").exit_code == 0
    assert clbench("sweep", "mine.toml", "--dry-run").exit_code == 0
    again = clbench("sweep", "new", "mine.toml")
    assert again.exit_code == 2
    assert "there already" in again.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--seeds", "3"], "--method"),
        (["sweep", "none.toml"], "clbench sweep new none.toml"),
        (["sweep", "new", "grid.txt"], ".toml"),
        (["sweep", "--method", "seqlora,ewx"], "did you mean 'ewc'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(clbench, words: list[str], message: str) -> None:
    result = clbench(*words)
    assert result.exit_code == 2
    assert message in result.output


def test_a_sweep_from_python(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**TINY, "backbone": str(tiny_folder), "limit_train": 8, "limit_test": 4, "epochs": [1, 2]}
    records = package.sweep({"methods": ["seqlora"], "streams": ["sst-2"], "settings": settings}, "here")
    assert [record.setting("epochs") for record in records] == [1, 2]
    with pytest.raises(ClbenchError, match=r"2 of 4 runs failed.*on purpose"):
        package.sweep(grid, "here", retries=0)
