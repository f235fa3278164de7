"""Whatever is killed in a sweep, workers or the command itself: the same command goes on, and each run is as if made alone."""

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

import msgspec
import pytest
from rich.console import Console

from clbench.discovery import find_plugins
from clbench.grid import read_grid
from clbench.records.files import read_records
from clbench.records.heartbeat import Beat
from clbench.running.maker import RunMaker
from clbench.running.opening import RunOpener
from tests.conftest import TINY, run_in_subprocess

PATIENCE = 1200  # seconds for a sweep on a busy machine
ENDLESS = """
import time
from clbench import hookimpl
class Endless:
    @hookimpl
    def learn_task(self, learner, task):
        for _ in range(3600):
            time.sleep(1)
        return {}
@hookimpl
def methods():
    return {"endless": Endless}
"""


def write_grid(folder: Path, backbone: Path, methods: list[str], seeds: int) -> Path:
    settings = {**TINY, "backbone": str(backbone), "limit_train": 32, "limit_test": 4, "epochs": 2, "threads": 1}
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    path = folder / "grid.toml"
    path.write_text(
        f"methods = {methods}\nstreams = ['sst-2,agnews,imdb']\nseeds = {seeds}\n[settings]\n" + "\n".join(lines)
    )
    return path


def beating(results: Path) -> list[int]:
    """Return the processes that make runs."""
    found = []
    for path in results.glob(".*.heartbeat"):
        try:
            beat = msgspec.json.decode(path.read_bytes(), type=Beat)
        except (OSError, msgspec.DecodeError):
            continue
        if beat.is_alive:
            found.append(beat.process)
    return found


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def torment(words: list[str], folder: Path, workers: int, drivers: int, chance: random.Random) -> tuple[int, str]:
    """Start the sweep again and again, with kills of its workers and of itself in between; return how the last one ended."""
    targets = ["worker"] * workers + ["driver"] * drivers
    chance.shuffle(targets)
    end = time.monotonic() + PATIENCE
    while True:
        driver: Popen[str] = run_in_subprocess(words, folder)
        try:
            while targets and driver.poll() is None:
                assert time.monotonic() < end, f"{len(targets)} kills are left"
                time.sleep(chance.uniform(0.02, 0.3))
                alive = beating(folder / "results")
                if not alive:
                    continue
                if targets.pop() == "driver":
                    driver.kill()
                    break
                kill(chance.choice(alive))
            output, _ = driver.communicate(timeout=max(1, end - time.monotonic()))
        finally:
            driver.kill()
        if driver.returncode != -signal.SIGKILL:
            return driver.returncode, output
        while beating(folder / "results"):  # no worker outlives the command
            assert time.monotonic() < end
            time.sleep(0.05)


def check(
    tmp_path: Path,
    backbone: Path,
    methods: list[str],
    seeds: int,
    workers: int,
    drivers: int,
    engine: Sequence[str] = ("--jobs", "2"),
) -> None:
    grid = write_grid(tmp_path, backbone, methods, seeds)
    words = ["sweep", str(grid), *engine, "--retries", "50", "--results", "results"]
    code, output = torment(words, tmp_path, workers, drivers, random.Random(workers))
    assert code == 0, output
    compare_with_alone(grid, tmp_path)
    left = [path.name for path in (tmp_path / "results").iterdir() if path.suffix not in (".json", ".jsonl", ".lock")]
    assert [name for name in left if not name.endswith((".tmp", ".probe"))] == []  # a kill may leave half a file


def compare_with_alone(grid: Path, tmp_path: Path) -> None:
    """Compare the records of a grid with those of its runs made one by one, bit for bit."""
    plugins = find_plugins()
    specs = read_grid(grid).expand(plugins)
    maker = RunMaker(Console(quiet=True), RunOpener(plugins, tmp_path / "alone"))
    for spec in specs:
        maker.make(spec)
    found, alone = read_records(tmp_path / "results"), read_records(tmp_path / "alone")
    assert [record.name for record in found] == [record.name for record in alone]
    assert len(found) == len(specs) > 1
    for record, expected in zip(found, alone, strict=True):
        assert record.scores == expected.scores
        assert record.learned == expected.learned
        assert record.losses == expected.losses
        answers = [(tmp_path / folder / f"{record.name}.answers.jsonl").read_bytes() for folder in ("results", "alone")]
        assert answers[0] == answers[1]


def test_a_sweep_survives_kills(tiny_folder: Path, tmp_path: Path) -> None:
    check(tmp_path, tiny_folder, ["lorareplay"], seeds=3, workers=2, drivers=1)


@pytest.mark.torture
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(["--jobs", "2"], id="local"),
        pytest.param(["--engine", "ray"], id="ray"),
        pytest.param(["--engine", "slurm", "--slurm", "cluster=local", "--slurm", "timeout_min=5"], id="submitit"),
    ],
)
def test_a_larger_sweep_survives_many_kills(tiny_folder: Path, tmp_path: Path, engine: list[str]) -> None:
    methods = ["seqlora", "lorareplay", "rkif", "ewc"]
    check(tmp_path, tiny_folder, methods, seeds=6, workers=26, drivers=4, engine=engine)


def test_no_worker_outlives_the_command_even_in_the_middle_of_a_run(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    grid = write_grid(tmp_path, tiny_folder, ["endless"], seeds=2)
    driver = run_in_subprocess(["sweep", str(grid), "--jobs", "2", "--plugin", "endless.py"], tmp_path)
    end = time.monotonic() + PATIENCE
    while len(alive := beating(tmp_path / "results")) < 2:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    assert driver.pid not in alive
    driver.kill()
    driver.communicate(timeout=30)  # its workers have its output, too, as long as they live
    while beating(tmp_path / "results"):
        assert time.monotonic() < end
        time.sleep(0.1)
