"""A sweep makes what is missing, each run once, tries again what failed, and waits for what another process holds."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from clbench.records.files import RunFiles
from clbench.running.sweep import Sweep, SweepRun
from clbench.running.worker import Outcome, Setup
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.records.test_heartbeat import ended_process, leave


def finish(files: RunFiles) -> None:
    """Leave what a finished run leaves."""
    files.answers.write_text("")
    files.record.write_text("{}")


class Script:
    """An engine with room for one run, whose attempts end as a script says."""

    def __init__(self, runs: Sequence[SweepRun], endings: dict[int, list[str]]) -> None:
        self.files = {run.spec: run.files for run in runs}
        self.endings = {runs[number].spec: deque(states) for number, states in endings.items()}
        self.started: list[int] = []
        self.closed = False
        self._now: RunSpec | None = None

    @property
    def room(self) -> int:
        return int(self._now is None)

    def choose(self, waiting: Sequence[RunSpec]) -> int:
        return 0

    def start(self, spec: RunSpec) -> None:
        self._now = spec
        self.started.append(spec.seed)

    def wait(self, seconds: float) -> list[tuple[RunSpec, Outcome]]:
        if self._now is None:
            return []
        spec, self._now = self._now, None
        states = self.endings.get(spec)
        state = states.popleft() if states else "done"
        files = self.files[spec]
        if state == "done":
            finish(files)
        if state == "got on":
            files.checkpoint.write_text(f"{len(self.started)}")
            state = "died"
        return [(spec, Outcome(state, f"{state} {spec.seed}"))]  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, bool]] = []
        self.on_look = lambda: None

    def tell(self, run: SweepRun, outcome: Outcome, final: bool) -> None:
        self.told.append((run.spec.seed, outcome.state, final))

    def look(self, running: Sequence[SweepRun], left: int) -> None:
        self.on_look()


@pytest.fixture
def runs(tmp_path: Path) -> list[SweepRun]:
    return [SweepRun(RunSpec("m", {}, Settings(seed=seed)), RunFiles(tmp_path, f"r{seed}")) for seed in range(4)]


def sweep(tmp_path: Path, engine: Script, notes: Notes, runs: Sequence[SweepRun], retries: int = 2) -> dict[int, str]:
    clock = iter(range(0, 100_000, 10))  # each look is ten seconds after the last one
    failed = Sweep(Setup(str(tmp_path)), engine, notes, retries).make(runs, lambda: float(next(clock)))
    return {run.spec.seed: text for run, text in failed.items()}


def test_what_is_done_is_not_repeated(tmp_path: Path, runs: list[SweepRun]) -> None:
    finish(runs[1].files)
    engine, notes = Script(runs, {}), Notes()
    assert sweep(tmp_path, engine, notes, runs) == {}
    assert engine.started == [0, 2, 3]
    assert notes.told == [(0, "done", True), (2, "done", True), (3, "done", True)]
    assert engine.closed


def test_a_failure_is_tried_again_and_then_reported_and_the_rest_goes_on(tmp_path: Path, runs: list[SweepRun]) -> None:
    engine, notes = Script(runs, {0: ["failed"] * 9, 1: ["failed", "died", "done"]}), Notes()
    assert sweep(tmp_path, engine, notes, runs) == {0: "failed 0"}
    assert engine.started.count(0) == 3
    assert engine.started.count(1) == 3
    assert [final for seed, _, final in notes.told if seed == 0] == [False, False, True]
    assert runs[0].files.failure.read_text() == "failed 0\n"
    assert all(run.files.record.exists() for run in runs[1:])


def test_a_process_that_died_after_it_got_on_has_not_failed(tmp_path: Path, runs: list[SweepRun]) -> None:
    engine = Script(runs, {0: ["got on"] * 5 + ["done"], 1: ["died", "got on", "died", "got on"]})
    assert sweep(tmp_path, engine, Notes(), runs, retries=1) == {1: "died 1"}
    assert engine.started.count(0) == 6
    assert engine.started.count(1) == 3


def test_a_run_that_died_after_its_record_is_done(tmp_path: Path, runs: list[SweepRun]) -> None:
    engine, notes = Script(runs[:1], {0: ["died"]}), Notes()
    wait = engine.wait

    def wait_with_record(seconds: float) -> list[tuple[RunSpec, Outcome]]:
        finish(runs[0].files)
        return wait(seconds)

    engine.wait = wait_with_record  # type: ignore[method-assign]
    assert sweep(tmp_path, engine, notes, runs[:1]) == {}
    assert notes.told == [(0, "done", True)]


def test_a_held_run_is_made_last_once_its_holder_is_dead(tmp_path: Path, runs: list[SweepRun]) -> None:
    leave(runs[0].files, 1, "elsewhere")
    engine, notes = Script(runs, {}), Notes()
    looks = iter(range(100))

    def die_late() -> None:
        if next(looks) == 10:
            leave(runs[0].files, ended_process())

    notes.on_look = die_late
    assert sweep(tmp_path, engine, notes, runs) == {}
    assert engine.started == [1, 2, 3, 0]
    assert notes.told[0] == (0, "held", False)


def test_a_held_run_that_its_holder_finishes_is_not_repeated(tmp_path: Path, runs: list[SweepRun]) -> None:
    leave(runs[0].files, 1, "elsewhere")
    engine, notes = Script(runs, {}), Notes()
    looks = iter(range(100))

    def finish_late() -> None:
        if next(looks) == 10:
            finish(runs[0].files)

    notes.on_look = finish_late
    assert sweep(tmp_path, engine, notes, runs) == {}
    assert engine.started == [1, 2, 3]
    assert (0, "done", True) in notes.told
