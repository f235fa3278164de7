"""`--track`: what a tracker is told is what the record says; the run is the run without it, whatever the tracker does."""

import random
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from clbench import tracking
from clbench.data.streams import find_stream
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.grid import make_grid, read_grid
from clbench.hookspecs import hookimpl
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.running.watchers.tracking import TrackingWatcher
from clbench.settings import Settings
from clbench.spec import RunSpec
from clbench.tracking import Tracking
from tests.conftest import TINY

PLUGINS = find_plugins()
SETTINGS = Settings(stream=find_stream("sst-2,agnews").name, epochs=3, schedule="linear", **TINY)  # 9 steps a task


@pytest.fixture
def run_method(backbone, toy_tasks, tmp_path):
    """A function that runs a method on two tasks of 24 rows; returns record, saved tensors and files."""

    def run(name, folder, *watchers):
        spec = RunSpec(name, PLUGINS.method(name).resolve_options({}), replace(SETTINGS, backbone=backbone.name))
        opened = replace(RunOpener(PLUGINS, tmp_path / folder).open(spec), tasks=toy_tasks)
        record, files = execute_run(opened, backbone, watchers, save_adapter=True), opened.files
        return record, load_file(files.adapter / "adapter_model.safetensors"), files

    return run


@dataclass
class Told:
    """A tracker that remembers what it is told, and does on the way what none should."""

    runs: list = field(default_factory=list)
    step: list = field(default_factory=list)
    task: list = field(default_factory=list)
    ended: list = field(default_factory=list)
    breaks_in: str = ""

    def begin(self, run):
        self.runs.append(run)
        self._misbehave("begin")
        return self

    def log(self, axis, rows):
        getattr(self, axis).extend(rows)
        self._misbehave("log")

    def end(self, state, summary, files):
        self.ended.append((state, dict(summary), list(files)))
        self._misbehave("end")

    def _misbehave(self, deed):
        random.seed(0)
        random.random()
        print("look at me")
        warnings.warn("old-fashioned", DeprecationWarning, stacklevel=1)
        if self.breaks_in == deed:
            raise OSError(28, "No space left on device")


def plain(record):
    """What of a record may not change: all but names, times and memory."""
    costs = tuple(msgspec.structs.replace(cost, own_seconds=0.0) for cost in record.costs)
    return (record.identity, record.scores, record.metrics, record.learned, record.losses, costs, record.notes)


def test_a_tracker_is_told_what_the_record_says_and_changes_nothing(run_method, capsys):
    told = Told()
    random.seed(7)
    without = run_method("rkif", "without")
    state = random.getstate()
    random.seed(7)
    record, weights, files = run_method("rkif", "with", TrackingWatcher("told", "grid", told.begin))
    assert random.getstate() == state
    assert "look at me" not in capsys.readouterr().out
    assert plain(record) == plain(without[0])
    assert all(torch.equal(value, weights[name]) for name, value in without[1].items())
    (run,) = told.runs
    assert (run.name, run.group, run.goes_on, run.steps) == (record.name, "grid", False, 0)
    assert run.config["method"] == "rkif"
    assert run.config["learning_rate"] == TINY["learning_rate"]
    assert any(name.startswith("options.") for name in run.config)
    losses = [loss for curve in record.losses for loss in curve.losses]
    assert [step for step, _ in told.step] == list(range(1, len(losses) + 1))
    assert [values["train/loss"] for _, values in told.step] == pytest.approx(losses, rel=1e-5)
    rates = [values["train/learning_rate"] for _, values in told.step]
    assert rates[0] > rates[1] > rates[len(record.losses[0].losses) - 1] == 0  # linear, to the end of the task
    cells = [(place, name, value) for place, values in told.task for name, value in values.items()]
    assert {(i + 1, f"score/{('sst-2', 'agnews')[j]}") for i in (0, 1) for j in range(i + 1)} <= {c[:2] for c in cells}
    assert (2, "score/agnews", record.scores[1][1]) in cells
    assert (2, "score/mean_so_far", record.metrics.op) in cells
    assert (2, "cost/forward_rows", record.costs[1].forward_rows) in cells
    ((end, summary, kept),) = told.ended
    assert (end, summary["op"], summary["bwt"]) == ("done", record.metrics.op, record.metrics.bwt)
    assert kept == [files.record, files.answers]
    assert not files.tracking.exists()


@pytest.mark.parametrize("deed", ["begin", "log", "end"])
def test_a_tracker_that_fails_costs_one_warning(run_method, caplog, deed):
    told = Told(breaks_in=deed)
    record, _, files = run_method("seqlora", deed, TrackingWatcher("told", None, told.begin))
    assert files.record.exists()
    assert record.metrics.op is not None
    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "clbench.tracking"]
    assert line.endswith(
        f"told cannot {deed}, and is told nothing more of this run: OSError: [Errno 28] No space left on device"
    )
    assert len(told.ended) == (deed == "end")


class Stop:
    """Stands for a kill within the second task."""

    @hookimpl
    def train_step(self, learner, step, steps, loss):
        if learner.task_index == 1 and step == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_in_the_same_tracked_run(run_method):
    first, second = Told(), Told()
    with pytest.raises(KeyboardInterrupt):
        run_method("seqlora", "run", TrackingWatcher("told", None, first.begin), Stop())
    assert [state for state, *_ in first.ended] == ["failed"]
    record, _, files = run_method("seqlora", "run", TrackingWatcher("told", None, second.begin))
    assert second.runs[0].key == first.runs[0].key
    assert (second.runs[0].goes_on, second.runs[0].steps) == (True, 9)
    assert [step for step, _ in second.step] == list(range(10, 19))
    assert [values["train/loss"] for _, values in second.step] == pytest.approx(record.losses[1].losses, rel=1e-5)
    assert (1, {"score/sst-2": record.scores[0][0]}) in [(i, {k: v for k, v in values.items() if k == "score/sst-2"})
                                                         for i, values in second.task]  # fmt: skip
    assert not files.tracking.exists()
    files.tracking.write_text("no key")  # left by somebody else
    files.record.unlink()
    third = Told()
    run_method("seqlora", "run", TrackingWatcher("told", None, third.begin))
    assert third.runs[0].key not in ("no key", first.runs[0].key)


def test_what_is_not_there_is_one_line(clbench, monkeypatch, tmp_path: Path):
    result = clbench("run", "--method", "seqlora", "--track", "wanb")
    assert result.exit_code == 2
    assert "'wandb'" in result.output
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    (tmp_path / "run.toml").write_text('method = "seqlora"\ntrack = ["wandb"]\n')
    result = clbench("run", "--config", "run.toml")
    assert result.exit_code == 2
    line = "error: --track wandb needs the package wandb: pip install 'clbench[wandb]'\n"
    assert result.output.endswith(line)
    (tmp_path / "grid.toml").write_text('methods = ["seqlora"]\ntrack = ["wandb"]\n')
    result = clbench("sweep", "grid.toml")
    assert result.exit_code == 2
    assert result.output.endswith(line)
    with pytest.raises(ClbenchError, match="no tracker 'wanb'; did you mean 'wandb'"):
        _ = make_grid({"methods": ["seqlora"], "track": ["wanb"]}).tracking


def test_the_runs_of_a_grid_are_grouped_by_its_file(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: SimpleNamespace(origin=name))
    file = tmp_path / "ablation.toml"
    file.write_text('methods = ["seqlora"]\ntrack = ["wandb", "mlflow", "wandb"]\n')
    assert read_grid(file).tracking == Tracking(("wandb", "mlflow"), "ablation")
