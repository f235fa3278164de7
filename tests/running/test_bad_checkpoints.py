"""A checkpoint that was edited, or is another run's, is refused in one line; nothing is made of it."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from clbench.errors import ClbenchError
from clbench.running import checkpoints
from clbench.running.checkpoints import load_checkpoint, save_checkpoint

STOPPER = """
import os
from clbench import hookimpl

@hookimpl
def train_step(learner, step, steps, loss):
    if "STOP" in os.environ and learner.task_index == 1:
        raise RuntimeError("stopped")
"""


@pytest.fixture
def stopped(clbench, tiny_run, tmp_path, monkeypatch):
    """A function that runs the command, stopped within its second task, and returns the checkpoint; and the words."""
    (tmp_path / "stopper.py").write_text(STOPPER)
    words = [*tiny_run, "--method", "lorareplay", "--set", "memory_ratio=0.2", "--plugin", "stopper.py"]

    def stop(*more):
        before = set(tmp_path.glob("results/*.checkpoint"))
        with monkeypatch.context() as patch:
            patch.setenv("STOP", "1")
            result = clbench(*words, *more)
        assert "stopped" in result.output, result.output
        (path,) = set(tmp_path.glob("results/*.checkpoint")) - before
        return path

    return stop, lambda *more: clbench(*words, *more)


def edit(path, change, digest):
    """Change a checkpoint's content and tensors in place; `digest`: also what vouches for them."""
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = json.loads(header["content"])
    change(content, tensors)
    header["content"] = json.dumps(content)
    if digest:
        header["digest"] = checkpoints._digest(header["content"], tensors)
    save_file(tensors, path, header)


def flip_a_bit(content, tensors):
    tensors["0"].view(torch.int32)[7] ^= 1


def empty_memory(content, tensors):
    content["method"]["memory"]["of_task"] = {}


def one_weight(content, tensors):
    tensors["0"] = torch.ones(1)


def double_weights(content, tensors):
    tensors["0"] = tensors["0"].double()


def lose_state(content, tensors):
    content["method"] = {}


def put(**progress):
    return lambda content, tensors: content["progress"].update(progress)


STREAM = ("--stream", "sst-2,agnews")
EDITS = {
    "a bit": (flip_a_bit, False, "its digest is another one"),
    "memory": (empty_memory, False, "its digest is another one"),
    "scores": (put(scores=[[100.0, None], [None, None]]), False, "its digest is another one"),
    "done -1": (put(done=-1), True, "-1 of 2 tasks are done"),
    "done 3": (put(done=3), True, "3 of 2 tasks are done"),
    "done 99": (put(done=99), True, "99 of 2 tasks are done"),
    "done 2": (put(done=2), True, "1 reports on 2 tasks"),
    "a percentage": (put(scores=[[1e9, None], [None, None]]), True, "a score is 1000000000.0"),
    "a matrix": (put(scores=[[50.0]]), True, "no 2 x 2 matrix"),
    "answers": (put(answers={"1": {"0": []}}), True, "answers after a task that was not learned"),
    "a field": (put(unknown=1), True, "unexpected keyword argument 'unknown'"),
    "one weight": (one_weight, True, r"the trainable weights are \(\d+,\) of torch.float32, not \(1,\)"),
    "a type": (double_weights, True, "not .* of torch.float64"),
    "state": (lose_state, True, r"the method's state is \['memory'\], not \[\]"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_checkpoint_is_refused(name, stopped, tmp_path):
    change, digest, reason = EDITS[name]
    stop, run = stopped
    edit(stop(*STREAM), change, digest)
    result = run(*STREAM)
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "damaged checkpoint" in output
    assert "remove it or use --force to start anew" in output
    with pytest.raises(ClbenchError, match=reason):
        raise ClbenchError(output)
    assert not list(tmp_path.glob("results/*.json"))


@pytest.mark.parametrize(
    "other", [("--learning-rate", "3e-3", *STREAM), ("--stream", "sst-2,imdb"), ("--seeds", "2,", *STREAM)]
)
def test_the_checkpoint_of_another_run_is_refused_under_this_name(other, stopped):
    stop, run = stopped
    mine = stop(*STREAM)
    shutil.copy(stop(*other), mine)
    result = run(*STREAM)
    assert result.exit_code == 2
    assert "a checkpoint of another run" in " ".join(result.output.split())


def test_an_untouched_checkpoint_is_taken_up(stopped):
    stop, run = stopped
    edit(stop(*STREAM), lambda content, tensors: None, False)
    result = run(*STREAM)
    assert result.exit_code == 0, result.output


def test_states_whose_names_look_alike_come_back_as_they_were(tmp_path):
    state = {"a.b": torch.tensor(1), "a": {"b": torch.tensor(0)}, "c": [torch.tensor(2)], "c.0": torch.tensor(3)}
    save_checkpoint(tmp_path / "c", state, "1a")
    assert load_checkpoint(tmp_path / "c", torch.device("cpu"), "1a") == state
    with pytest.raises(TypeError, match="cannot be checkpointed"):
        save_checkpoint(tmp_path / "c", {checkpoints.KIND: "tensor", "name": "0"}, "1a")


@pytest.mark.parametrize("package", ["clbench", "torch"])
def test_a_checkpoint_of_other_versions_is_refused(package, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c", {}, "1a")
    monkeypatch.setattr(f"{package}.__version__", "9.9.0")
    with pytest.raises(
        ClbenchError, match=rf"c: a checkpoint of clbench .*; with .*{package} 9\.9.*; remove it or use"
    ):
        load_checkpoint(tmp_path / "c", torch.device("cpu"), "1a")
