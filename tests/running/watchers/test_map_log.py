"""`--log-maps`: what is logged is right by hand, and a run with it is the run without it, bit for bit, whatever it hooks in."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clbench.data.streams import find_stream
from clbench.data.tasks import Example, Task
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.hookspecs import hookimpl
from clbench.records.maps import Maps, Point, TensorPlace, read_maps, write_maps
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.running.watchers.map_log import MapLog, some_rows, undisturbed
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import TINY

EXAMPLE_PLUGINS = find_plugins()
STREAM = find_stream("sst-2,agnews")
SETTINGS = Settings(stream=STREAM.name, epochs=3, **TINY)  # 9 steps a task


@pytest.fixture
def run_method(backbone, toy_tasks, tmp_path):
    """A function that runs a method on two tasks of 24 rows; returns record, saved tensors and files."""

    def run(name, folder, *watchers):
        method = EXAMPLE_PLUGINS.method(name)
        options = method.resolve_options({})
        spec = RunSpec(name, options, replace(SETTINGS, backbone=backbone.name))
        opened = replace(RunOpener(EXAMPLE_PLUGINS, tmp_path / folder).open(spec), tasks=toy_tasks)
        record, files = execute_run(opened, backbone, watchers, save_adapter=True), opened.files
        saved = {
            f"{file.name} {key}": value
            for file in sorted(files.adapter.glob("*.safetensors"))
            for key, value in load_file(file).items()
        }
        return record, saved, files

    return run


@pytest.mark.parametrize(
    "name", ["rkif", "migu", "olora", "sapt", "l2p", "mtl"]
)  # gradients, hooks, blocks, gates, prompts
def test_the_log_changes_nothing(run_method, name):
    plain, logged = run_method(name, "plain"), run_method(name, "logged", MapLog())
    assert plain[1].keys() == logged[1].keys()
    assert all(torch.equal(plain[1][key], logged[1][key]) for key in plain[1])
    assert plain[0].scores == logged[0].scores
    assert plain[0].learned == logged[0].learned
    without_times = [
        [msgspec.structs.replace(cost, own_seconds=0.0) for cost in record.costs] for record in (plain[0], logged[0])
    ]
    assert without_times[0] == without_times[1]
    assert plain[2].answers.read_text() == logged[2].answers.read_text()
    assert not plain[2].maps.exists()
    maps = read_maps(logged[2].maps)
    if name == "mtl":
        assert maps.tasks == ["all tasks"]
        return
    assert maps.tasks == ["sst-2", "agnews"]
    parts = [point.part for point in maps.points if point.task == 1]
    assert parts == pytest.approx([0, 3 / 9, 5 / 9, 7 / 9, 1])  # the first steps at or after each quarter
    of_first = maps.importance[:, 0]
    assert np.isfinite(of_first).all()
    assert np.isnan(maps.importance[:5, 1]).all()  # agnews, while sst-2 is learned
    assert (maps.importance[maps.point(1, 1)] > 0).any(axis=1).all()
    assert (maps.task_vector[maps.point(1, 0)] == 0).all()
    assert (maps.task_vector[maps.point(1, 1)] > 0).any()


def test_importance_and_task_vector_by_hand(make_learner, run_method, toy_tasks):
    files = run_method("seqlora", "run", MapLog())[2]
    maps = read_maps(files.maps)
    learner = make_learner()
    learner.attached.load(files.adapter)
    gradient = learner.passes.mean_gradient(toy_tasks[0].train)  # 24 rows: all of them
    views = learner.weights.views((learner.weights.data * gradient).abs())
    expected = [float(view.mean()) for view in views.values()]
    assert list(views) == list(maps.tensors)
    assert maps.importance[maps.point(1, 1), 0] == pytest.approx(expected, rel=1e-4)
    fresh = make_learner()
    start = fresh.weights.copy()
    fresh.attached.load(files.adapter)
    # from the first task to the end both tasks moved the weights: at the end of the first, its vector alone
    b = next(name for name in views if "lora_B" in name)
    first, second = (maps.task_vector[maps.point(task, 1), list(views).index(b)] for task in (0, 1))
    total = float(fresh.weights.views((fresh.weights.data - start).abs())[b].mean())
    assert first > 0
    assert abs(first - second) <= total <= first + second


def test_rows_are_spread_over_the_task():
    task = Task("t", tuple(Example("", str(i), "a") for i in range(100)), ())
    assert [row.passage for row in some_rows(task)] == [str(i) for i in range(0, 96, 3)]
    assert len(some_rows(Task("t", task.train[:5], ()))) == 5


def test_a_measurement_leaves_the_learner_as_it_was(make_learner, toy_tasks):
    learner = make_learner()
    learner.passes.train_mode()
    learner.passes.backward(learner.loss(learner.feed.batch(toy_tasks[0].train[:4])))
    gradient, counted, state = learner.weights.grad.clone(), learner.cost.forward_batches, torch.get_rng_state()
    with undisturbed(learner):
        learner.passes.mean_gradient(toy_tasks[0].train)
        torch.rand(3)
    assert torch.equal(learner.weights.grad, gradient)
    assert learner.cost.forward_batches == counted
    assert torch.equal(torch.get_rng_state(), state)
    assert learner.model.training
    assert learner.cost.aside_seconds > 0


def test_places_of_tensors():
    of = TensorPlace.of
    assert of("encoder.block.3.layer.0.SelfAttention.q.lora_A.default.weight") == TensorPlace(
        "encoder 3", "SelfAttention.q"
    )
    assert of("decoder.block.11.layer.1.EncDecAttention.v.lora_B.default.weight") == TensorPlace(
        "decoder 11", "EncDecAttention.v"
    )
    assert of("model.layers.0.mlp.down_proj.lora_A.default.weight") == TensorPlace("layer 0", "mlp.down_proj")
    assert of("pool.prompts") == TensorPlace("outside", "pool.prompts")


def test_the_file_round_trips_and_damage_is_one_line(tmp_path):
    maps = Maps(
        "run", 32, ["a", "b"], {"x.lora_A": 4}, [Point(0, 0, 0), Point(0, 2, 2)],
        np.array([[[0.5], [np.nan]], [[1.0], [2.0]]], np.float32), np.array([[0.0], [3.0]], np.float32),
    )  # fmt: skip
    file = tmp_path / "run.maps.safetensors"
    write_maps(file, maps)
    again = read_maps(file)
    assert (again.name, again.tasks, again.tensors, again.points) == (maps.name, maps.tasks, maps.tensors, maps.points)
    np.testing.assert_array_equal(again.importance, maps.importance)
    np.testing.assert_array_equal(again.task_vector, maps.task_vector)
    assert again.point(0, 0.9) == 1
    with pytest.raises(ClbenchError, match="nothing was logged of task number 2"):
        again.point(1, 0)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ClbenchError, match="damaged maps"):
        read_maps(file)
    with pytest.raises(ClbenchError, match="--log-maps"):
        read_maps(tmp_path / "none.maps.safetensors")


class Stop:
    """Stands for a kill within the second task."""

    @hookimpl
    def train_step(self, learner, step, steps, loss):
        if learner.task_index == 1 and step == 4:
            raise KeyboardInterrupt


def test_a_stopped_run_keeps_its_log(run_method):
    with pytest.raises(KeyboardInterrupt):
        run_method("rkif", "stopped", MapLog(), Stop())
    (checkpoint,) = run_method("rkif", "whole", MapLog())[2].folder.parent.glob("stopped/*.checkpoint")
    assert not list(checkpoint.parent.glob("*.maps.safetensors"))
    stopped, whole = (run_method("rkif", folder, MapLog())[2].maps for folder in ("stopped", "whole"))
    assert stopped.read_bytes() == whole.read_bytes()


def test_a_run_begun_without_the_log_says_so(run_method):
    with pytest.raises(KeyboardInterrupt):
        run_method("seqlora", "run", Stop())
    with pytest.raises(ClbenchError, match="begun without --log-maps; finish it without, or start anew with --force"):
        run_method("seqlora", "run", MapLog())
    assert run_method("seqlora", "run")[0].method.name == "seqlora"


def test_a_finished_run_without_maps_is_made_again_for_them(clbench, tiny_run, tmp_path):
    words = [*tiny_run, "--method", "seqlora", "--stream", "sst-2"]
    assert clbench(*words).exit_code == 0
    assert "already finished" in clbench(*words).output
    assert "already finished" not in clbench(*words, "--log-maps").output
    assert len(list((tmp_path / "results").glob("*.maps.safetensors"))) == 1
    assert "already finished" in clbench(*words, "--log-maps").output
