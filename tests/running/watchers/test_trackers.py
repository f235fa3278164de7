"""What lies in each tracker after a grid's run that was stopped and went on: needs the extras, `pytest -n 0 -m trackers`."""

import json
import os
import sqlite3
import struct
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from clbench.data.streams import find_stream
from clbench.discovery import find_plugins
from clbench.hookspecs import hookimpl
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.running.watchers.tracking import TrackingWatcher
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import TINY

pytestmark = [pytest.mark.trackers, pytest.mark.filterwarnings("default")]  # these libraries' own warnings are theirs
PLUGINS = find_plugins()


class Stop:
    """Stands for a kill within the second task."""

    @hookimpl
    def train_step(self, learner, step, steps, loss):
        if learner.task_index == 1 and step == 2:
            raise KeyboardInterrupt


@pytest.fixture
def tracked(backbone, toy_tasks, tmp_path, monkeypatch):
    """A function that makes a run twice, the first time stopped; returns record, files, and the record of the untracked run."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = Settings(stream=find_stream("sst-2,agnews").name, epochs=1, backbone=backbone.name, **TINY)
    spec = RunSpec("seqlora", PLUGINS.method("seqlora").resolve_options({}), settings)

    def run(folder, *watchers):
        opened = replace(RunOpener(PLUGINS, tmp_path / folder).open(spec), tasks=toy_tasks)
        return execute_run(opened, backbone, watchers), opened.files

    def call(name):
        pytest.importorskip(name)
        with pytest.raises(KeyboardInterrupt):
            run("results", TrackingWatcher(name, "my grid"), Stop())
        record, files = run("results", TrackingWatcher(name, "my grid"))
        other, _ = run("untracked")
        assert (record.scores, record.losses, record.learned) == (other.scores, other.losses, other.learned)
        return record, files

    return call


def test_tensorboard_shows_curves_measures_and_record(tracked):
    record, files = tracked("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = files.folder / "tracking" / "tensorboard" / "my-grid" / record.name
    found = EventAccumulator(str(folder)).Reload()
    losses = [loss for curve in record.losses for loss in curve.losses]
    events = found.Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, len(losses) + 1))  # none twice
    assert [event.value for event in events] == pytest.approx(losses, rel=1e-5)
    assert found.Scalars("score/agnews")[-1].value == pytest.approx(record.scores[1][1])
    assert found.Scalars("op")[0].value == pytest.approx(record.metrics.op)
    assert {"settings/text_summary", "record/text_summary"} <= set(found.Tags()["tensors"])
    assert "_hparams_/session_start_info" in found.summary_metadata or found.PluginTagToContent("hparams")


def wandb_records(file: Path):
    """Yield what a W&B transaction log holds: a header, then LevelDB's log format, protocol buffers within."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, last
            yield Record.FromString(parts)
            parts = b""


def test_wandb_offline_has_both_sessions_under_one_id(tracked):
    record, files = tracked("wandb")
    logs = sorted((files.folder / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 2
    assert len({log.name for log in logs}) == 1  # named by the run's id
    found = list(wandb_records(max(logs, key=lambda log: log.stat().st_mtime_ns)))
    (run,) = [one.run for one in found if one.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.project, run.display_name) == ("my grid", "clbench", record.name)
    config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in run.config.update}
    assert (config["method"], config["epochs"]) == ("seqlora", 1)
    lines = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.WhichOneof("record_type") == "history"
    ]
    curve = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert list(curve.values()) == pytest.approx(record.losses[1].losses, rel=1e-5)
    assert any(line.get("score/agnews") == record.scores[1][1] and line["task"] == 2 for line in lines)
    summary = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for one in found
        if one.WhichOneof("record_type") == "summary"
        for item in one.summary.update
    }
    assert summary["op"] == pytest.approx(record.metrics.op)
    (artifact,) = [
        one.request.log_artifact.artifact if one.WhichOneof("record_type") == "request" else one.artifact
        for one in found
        if one.WhichOneof("record_type") == "artifact"
    ]
    assert {Path(entry.path).name for entry in artifact.manifest.contents} == {files.record.name, files.answers.name}


def test_mlflow_files_have_one_run(tracked):
    record, files = tracked("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((files.folder / "tracking" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("clbench")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (record.name, "FINISHED")
    assert run.data.tags["group"] == "my grid"
    assert (run.data.params["method"], run.data.params["epochs"]) == ("seqlora", "1")
    assert run.data.metrics["op"] == pytest.approx(record.metrics.op)
    losses = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "train/loss")}
    expected = [loss for curve in record.losses for loss in curve.losses]
    assert [losses[step] for step in sorted(losses)] == pytest.approx(expected, rel=1e-5)
    assert client.get_metric_history(run.info.run_id, "score/agnews")[-1].step == 2
    kept = {Path(one.path).name for one in client.list_artifacts(run.info.run_id, "record")}
    assert kept == {files.record.name, files.answers.name}


def test_trackio_database_has_one_run(tracked, tmp_path_factory, monkeypatch):
    if find_spec("trackio") is None:
        pytest.skip("could not import 'trackio'")
    with monkeypatch.context() as patch:  # trackio reads the place when it is imported, and only here it is
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        from trackio.utils import TRACKIO_DIR
    record, files = tracked("trackio")
    with sqlite3.connect(TRACKIO_DIR / "clbench.db") as database:
        lines = [(step, run, json.loads(text)) for step, run, text in
                 database.execute("SELECT step, run_id, metrics FROM metrics WHERE run_name = ?", [record.name])]  # fmt: skip
        ((config,),) = database.execute("SELECT config FROM configs WHERE run_name = ?", [record.name])
    assert len({run for _, run, _ in lines}) == 1
    assert json.loads(config)["_Group"] == "my grid"
    assert json.loads(config)["method"] == "seqlora"
    losses = {step: values["train/loss"] for step, _, values in lines if "train/loss" in values}
    expected = [loss for curve in record.losses for loss in curve.losses]
    assert [losses[step] for step in sorted(losses)] == pytest.approx(expected, rel=1e-5)
    assert any(values.get("op") == pytest.approx(record.metrics.op) for *_, values in lines)
    blobs = {path.read_bytes() for path in TRACKIO_DIR.rglob("blobs/**/*") if path.is_file()}
    assert files.record.read_bytes() in blobs
