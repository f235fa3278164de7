"""One battery for every method that discovery finds, and for the README's plugin."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from clbench.checkpoint import load_checkpoint
from clbench.discovery import find_plugins
from clbench.protocol import Run, execute_run, run_files
from clbench.settings import Settings
from clbench.streams import Stream

PLUGINS = find_plugins([Path(__file__).parent / "plugins" / "l2.py"])
STREAM = Stream("sst-2,agnews", ("sst-2", "agnews"))


@pytest.fixture
def run_method(backbone, toy_tasks, tmp_path):
    """A function that runs a method on two tiny tasks and returns record, weights and files."""

    def run(name, folder="results", tasks=toy_tasks, watchers=(), seed=1):
        method = PLUGINS.method(name)
        settings = Settings(backbone="tiny", stream=STREAM.name, seed=seed, epochs=1, **TINY)
        options = method.resolve_options({})
        files = run_files(tmp_path / folder, settings, method, options, tasks)
        record = execute_run(
            settings, STREAM, tasks, backbone, PLUGINS, method, options, files, watchers, save_adapter=True
        )
        return record, load_file(files.adapter / "adapter_model.safetensors"), files

    return run


@pytest.fixture(params=sorted(PLUGINS.methods))
def name(request):
    """Each method's name in turn."""
    return request.param


def test_learns_and_records(run_method, name, toy_tasks):
    record, weights, files = run_method(name)
    assert record["metrics"]["op"] is not None
    assert None not in record["scores"][-1]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    changed = [tensor for key, tensor in weights.items() if "lora_B" in key and tensor.abs().sum() > 0]
    assert len(changed) == 6, "B starts at zero: every optimizer must really step"
    assert json.loads(files.record.read_text()) == record
    method = PLUGINS.method(name)
    given = {key: str(value) for key, value in record["options"].items()}
    assert method.resolve_options(given) == record["options"]
    assert record["changed_options"] == {}


def test_same_seed_same_weights(run_method, name):
    runs = [run_method(name, folder, seed=seed)[1] for folder, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not all(torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


def test_stopped_and_resumed_equals_uninterrupted(run_method, name, monkeypatch):
    whole = run_method(name, "whole")
    learn = Run.learn

    def stop(run, task, index):
        if index == 1:
            raise KeyboardInterrupt
        learn(run, task, index)

    monkeypatch.setattr(Run, "learn", stop)
    if name != "mtl":  # it learns all tasks at once: one phase, nothing to resume
        with pytest.raises(KeyboardInterrupt):
            run_method(name, "stopped")
    monkeypatch.setattr(Run, "learn", learn)
    resumed = run_method(name, "stopped")
    assert resumed[0]["scores"] == whole[0]["scores"]
    assert all(torch.equal(resumed[1][key], whole[1][key]) for key in whole[1])


def test_keeps_no_more_of_old_tasks_than_it_declares(run_method, name, monkeypatch, toy_tasks):
    """What is checkpointed between tasks may hold at most `memory_ratio` of the training rows."""
    kept = []
    finish = Run.finish_task

    def look(run, index):
        finish(run, index)
        content = json.dumps(load_checkpoint(run.files.checkpoint, torch.device("cpu"))["method"], default=str)
        kept.append(sum(json.dumps(example.passage)[1:-1] in content for task in toy_tasks for example in task.train))

    monkeypatch.setattr(Run, "finish_task", look)
    run_method(name)
    ratio = PLUGINS.method(name).resolve_options({}).get("memory_ratio", 0.0)
    allowed = sum(max(int(ratio * len(task.train)), len(task.labels) if ratio else 0) for task in toy_tasks)
    assert all(count <= allowed for count in kept)
