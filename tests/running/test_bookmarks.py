"""A run killed at any step of a task goes on from its last bookmark and ends as an uninterrupted one, bit for bit."""

import itertools
import random
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clbench.data.streams import find_stream
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.learning import stopwatch
from clbench.learning.bookmarks import copied
from clbench.learning.training import Training
from clbench.running.checkpoints import load_checkpoint, save_checkpoint
from clbench.running.opening import RunOpener
from clbench.running.protocol import Run
from clbench.running.run import execute_run
from clbench.settings import Settings
from clbench.spec import RunSpec
from clbench.units import Every
from tests.conftest import TINY

PLUGINS = find_plugins()
STREAM = find_stream("sst-2,agnews")
EACH = Every(steps=1)
FORMS = [
    ("agem", {"memory_ratio": "0.2"}),
    ("aimmerging", {"memory_ratio": "0.2", "interval": "2"}),
    ("derpp", {"memory_ratio": "0.2"}),
    ("forever", {"memory_ratio": "0.2", "day": "1"}),
    ("gem", {"memory_ratio": "0.2", "reference": "batch"}),
    ("sure", {"memory_ratio": "0.2"}),
    ("lwf", {}),
    ("ella", {"strength": "100"}),
    ("nlora", {}),
    ("inflora", {}),
    ("gainlora", {}),
    ("gainlora", {"base": "olora"}),
    ("sdlora", {}),
    ("ewc", {}),
    ("ewc", {"form": "offline", "clip": "task", "fisher_rows": "7"}),
    ("inclora", {}),
    ("l2p", {}),
    ("lfpt5", {"prompt_length": "20"}),
    ("lorareplay", {"memory_ratio": "0.2"}),
    ("lorareplay", {"memory_ratio": "0.2", "mix": "interleave", "window": "2", "replay_steps": "1"}),
    ("migu", {}),
    ("migu", {"base": "lorareplay", "memory_ratio": "0.2", "rows": "random", "masked": "update"}),
    ("moelora", {"top_k": "1", "load_balance": "0.01"}),
    ("mtl", {}),
    ("olora", {"lambda2": "0.1"}),
    ("rkif", {"memory_ratio": "0.2", "window": "2"}),
    ("rkif", {"variant": "release", "memory_ratio": "0.2", "window": "4", "outer_steps": "2", "restart_inner": "false"}),
    ("rkif", {"memory_ratio": "0.2", "outer_importance": "static", "window": "3"}),
    ("sapt", {"memory_ratio": "0.2"}),
    ("sapt", {"memory_ratio": "0.2", "pseudo": "generator", "generator_steps": "6"}),
    ("seqlora", {}),
    ("tasl", {}),
    ("tasl", {"variant": "taslora"}),
    ("vrmcl", {"memory_ratio": "0.2", "carry": "true"}),
    ("vrmcl", {"memory_ratio": "0.2", "order": "second", "outer_at": "mean"}),
]  # fmt: skip


class Killed(KeyboardInterrupt):
    """Stands for a kill."""


@pytest.fixture
def make(backbone, toy_tasks, tmp_path, monkeypatch):
    """A function that makes a run of two tasks, 6 steps each of 2 micro-batches, and returns all that it leaves.

    With `kill` the process dies when it has written so many bookmarks; then nothing is returned.
    """
    whole = Run.keep_bookmark

    def run(folder, name, given, kill=None, every=EACH, plugins=PLUGINS, **settings):
        method, count = plugins.method(name), 0

        def keep(self, bookmark):
            nonlocal count
            whole(self, bookmark)
            count += 1
            if count == kill:
                raise Killed

        monkeypatch.setattr(Run, "keep_bookmark", keep)
        chosen = Settings(
            **{**TINY, "backbone": backbone.name, "stream": STREAM.name, "epochs": 2, "micro_batch": 5, **settings}
        )
        opened = RunOpener(plugins, tmp_path / folder).open(RunSpec(name, method.resolve_options(given), chosen))
        try:
            record = execute_run(replace(opened, tasks=toy_tasks), backbone, save_adapter=True, every=every)
        except Killed:
            return None
        assert not opened.files.are_begun
        return outcome(record, opened.files), count

    return run


def outcome(record, files):
    """Return all of a record that is no time, the answers, and every tensor that was saved."""
    content = msgspec.to_builtins(record)
    for name in ("timings", "started", "finished", "peak_memory", "environment"):
        del content[name]
    for cost in content["costs"]:
        del cost["own_seconds"]
    saved = {
        (path.name, k): v for path in sorted(files.adapter.glob("*.safetensors")) for k, v in load_file(path).items()
    }
    return content, files.answers.read_bytes(), saved


def assert_equal(found, expected):
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert found[2].keys() == expected[2].keys()
    assert all(torch.equal(found[2][name], tensor) for name, tensor in expected[2].items())


def id_of(value):
    return value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()) or "default"


@pytest.mark.parametrize(("name", "given"), FORMS, ids=id_of)
def test_kills_at_any_steps_change_nothing(make, name, given):
    expected, _ = make("plain", name, given, every=Every())
    killed, found = [], None
    for bookmarks in itertools.cycle((2, 3, 1)):
        found = make("killed", name, given, kill=bookmarks)
        if found is not None:
            break
        killed.append(bookmarks)
    steps = sum(curve["of"] for curve in expected[0]["losses"])
    assert sum(killed) == steps * (2 if "generator" in given.values() else 1)  # sapt's generator is not in the curve
    assert_equal(found[0], expected)


@pytest.mark.parametrize(("every", "asked"), [(EACH, 1), (Every(), 2)])
def test_a_kill_while_a_task_is_asked_costs_what_was_asked_since(make, monkeypatch, every, asked):
    given, ask, asks = {"memory_ratio": "0.2"}, Run.ask, []
    expected, _ = make("whole", "lorareplay", given, every=every, matrix="lower")

    def stopped(self, task):
        asks.append(task.name)
        if len(asks) == 3:
            raise Killed
        return ask(self, task)

    monkeypatch.setattr(Run, "ask", stopped)
    assert (
        make("killed", "lorareplay", given, every=every, matrix="lower") is None
    )  # second question after the second task
    assert asks == ["sst-2", "sst-2", "agnews"]
    asks[:] = ["not", "to", "be", "killed"]
    found, bookmarks = make("killed", "lorareplay", given, every=every, matrix="lower")
    assert asks[4:] == ["sst-2", "agnews"][-asked:]
    assert bookmarks == 0  # nothing is learned again where it was written down
    assert_equal(found, expected)


ODD = """
from clbench import About, hookimpl

class Odd:
    about = About(resumes_within_tasks=True)

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        {body}
        return training.stats

@hookimpl
def methods():
    return {{"odd": Odd}}
"""
LOOP = "for batch in training: training.step(learner.loss(batch))"
TAKEN_BY_HAND = "for batch in training.take(training.steps): training.step(learner.loss(batch))"
ANOTHER_WITHIN = """
        for batch in training:
            if training.step(learner.loss(batch)) and training.taken == 2:
                second = learner.training(task.train[:8])
                for other in second: second.step(learner.loss(other))
"""
ALONGSIDE_WITHIN = """
        for batch in training:
            if training.step(learner.loss(batch)) and training.taken == 2:
                replay = training.alongside(task.train)
                for other in replay.take(1): replay.step(learner.loss(other))
"""
KEPT_WITHIN = """
        for batch in training:
            training.step(learner.loss(batch)); training.keep(learner.weights.copy())
"""
LEFT = """
        for batch in training:
            if training.step(learner.loss(batch)) and training.taken == 3: break
        second = learner.training(task.train)
        for batch in second: second.step(learner.loss(batch))
"""
SKIPPED_STEPS = """
        for number, batch in enumerate(training):
            training.backward(learner.loss(batch))
            if number % 2: training.apply()
"""


@pytest.mark.parametrize(
    ("body", "bookmarks"),
    [
        (LOOP, 12),
        (TAKEN_BY_HAND, 0),
        (ANOTHER_WITHIN, 2),  # up to where another loop begins
        (ALONGSIDE_WITHIN, 2),
        (KEPT_WITHIN, 0),
        (LEFT, 4),
        (SKIPPED_STEPS, 6),  # never between a gradient and its step
    ],
    ids=["loop", "by hand", "another within", "alongside within", "kept within", "left", "skipped"],
)
def test_there_are_bookmarks_only_where_a_task_can_go_on_from(make, tmp_path, body, bookmarks):
    (tmp_path / "odd.py").write_text(ODD.format(body=body))
    plugins = find_plugins([tmp_path / "odd.py"])
    expected, count = make("whole", "odd", {}, plugins=plugins, micro_batch=None)
    assert count == bookmarks
    if bookmarks:
        assert make("killed", "odd", {}, kill=2, plugins=plugins, micro_batch=None) is None
        found, left = make("killed", "odd", {}, plugins=plugins, micro_batch=None)
        assert left == bookmarks - 2
        assert_equal(found, expected)


def test_a_method_that_comes_elsewhere_is_told_so(make, tmp_path):
    file = tmp_path / "begun"
    rows = f"training = learner.training(task.train[: 9 if __import__('pathlib').Path({str(file)!r}).exists() else 24])"
    (tmp_path / "odd.py").write_text(ODD.format(body=f"{rows}\n        {LOOP}"))
    plugins = find_plugins([tmp_path / "odd.py"])
    assert make("killed", "odd", {}, kill=2, plugins=plugins) is None
    file.touch()
    with pytest.raises(ClbenchError, match=r"bookmark: method 'odd' cannot go on from there: .* remove it to learn"):
        make("killed", "odd", {}, plugins=plugins)


def test_what_is_kept_is_a_tensor_or_a_dataclass(make_learner, toy_tasks):
    training = make_learner().training(toy_tasks[0].train)
    training.keep(torch.zeros(2), training.__dict__["_bench"])
    for value in (3, [torch.zeros(2)], Every):
        with pytest.raises(TypeError, match=r"keep\(\) takes tensors that are written into and dataclasses, not"):
            training.keep(value)


def test_every_random_generator_goes_on(make_learner, toy_tasks):
    learner, kept = make_learner(), []
    learner.bookmarks.begin_taking(lambda bookmark: kept.append(copied(bookmark, learner.device)), EACH)
    own, training = learner.generator("own"), learner.training(toy_tasks[0].train)

    def numbers():
        return (
            torch.rand(1, generator=own).item(), torch.rand(1).item(), random.random(), np.random.rand(),
        )  # fmt: skip

    drawn = []
    for batch in training:
        training.step(learner.loss(batch))
        drawn.append(numbers())
    assert len(kept) == len(drawn) == 3
    learner.begin_task(0)
    own = learner.generator("own")
    training = learner.training(toy_tasks[0].train)
    learner.bookmarks.go_on_from(kept[0])
    again = []
    for batch in training:
        training.step(learner.loss(batch))
        again.append(numbers())
    assert again == drawn[1:]


def test_times_go_on_without_what_was_lost(make_learner, toy_tasks, monkeypatch):
    seconds, kept = [0.0], []
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    learner = make_learner()

    def keep(bookmark):
        seconds[0] += 10
        kept.append(copied(bookmark, learner.device))

    learner.bookmarks.begin_taking(keep, EACH)
    cost = learner.cost
    with cost.whole:
        training = learner.training(toy_tasks[0].train)
        for batch in training:
            seconds[0] += 1
            training.step(learner.loss(batch))
    assert cost.learn_seconds == 3  # writing is not learning
    assert (cost.whole.read(), cost.harness.read()) == (3 + 10 * len(kept), 10 * len(kept))
    counted = kept[1]["open"]["cost"]
    learner.begin_task(0)
    seconds[0] += 5  # what is computed again is not counted twice
    training = learner.training(toy_tasks[0].train)
    learner.bookmarks.go_on_from(kept[1])
    batches = iter(training)
    next(batches)
    assert cost.forward_batches == counted["counted"]["forward_batches"] == 2
    assert cost.rows == 24
    assert cost.learn_seconds == counted["learn_seconds"] == 2
    assert cost.whole.read() == counted["watches"]["whole"]


def test_nothing_is_looked_at_until_a_bookmark_is_due(make_learner, toy_tasks, monkeypatch):
    learner, training_place = make_learner(), Training.place
    looked = []
    monkeypatch.setattr(Training, "place", lambda self: looked.append(self.taken) or training_place(self))
    for every, expected in ((Every(steps=2), [2, 3]), (Every(seconds=1e9), [3]), (Every(seconds=0.0), [1, 2, 3, 3])):
        looked.clear()
        learner.bookmarks.begin_taking(lambda bookmark: None, every)
        learner.begin_task(0)
        training = learner.training(toy_tasks[0].train)
        for batch in training:
            training.step(learner.loss(batch))
        assert looked == expected  # at the end once more, for a phase that may follow


@pytest.fixture
def stopped(clbench, tiny_run, tmp_path, monkeypatch):
    """A function that runs the command, stopped at the fourth step of its second task; and one that lets it go on."""
    (tmp_path / "stopper.py").write_text(STOPPER)
    words = [*tiny_run, "--method", "lorareplay", "--stream", "sst-2,agnews", "--plugin", "stopper.py", "--epochs", "4"]

    def stop(*more):
        with monkeypatch.context() as patch:
            patch.setenv("STOP", "1")
            result = clbench(*words, *more)
        assert "stopped" in result.output, result.output
        return next(iter(tmp_path.glob("results/*.bookmark")), None)

    return stop, lambda *more: clbench(*words, *more)


STOPPER = """
import os
from clbench import hookimpl

@hookimpl
def train_step(learner, step, steps, loss):
    if learner.task_index == 1:
        with open("steps", "a") as file: print(step, file=file)
        if "STOP" in os.environ and step == 4:
            raise RuntimeError("stopped")
"""


@pytest.mark.parametrize(
    ("given", "then", "steps"),
    [
        (("--checkpoint-every", "1 step"), ("--checkpoint-every", "1h"), [4, 5, 6, 7, 8]),
        (("--checkpoint-every", "0.001s"), (), [4, 5, 6, 7, 8]),
        (("--checkpoint-every", "2 steps"), (), [3, 4, 5, 6, 7, 8]),
        (("--checkpoint-every", "none"), (), [1, 2, 3, 4, 5, 6, 7, 8]),
        (("--checkpoint-every", "0"), (), [1, 2, 3, 4, 5, 6, 7, 8]),
        ((), (), [1, 2, 3, 4, 5, 6, 7, 8]),
        (("--checkpoint-every", "1 step"), ("--checkpoint-every", "none"), [1, 2, 3, 4, 5, 6, 7, 8]),
        (("--checkpoint-every", "1 step", "--log-maps"), ("--log-maps",), [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_the_command_says_how_often(stopped, tmp_path, given, then, steps):
    stop, run = stopped
    stop(*given)
    (tmp_path / "steps").unlink()
    result = run(*then)
    assert result.exit_code == 0, result.output
    assert [int(line) for line in (tmp_path / "steps").read_text().split()] == steps
    assert not [path for path in tmp_path.glob("results/[!.]*") if path.suffix in (".bookmark", ".checkpoint")]


def test_a_damaged_bookmark_is_refused_and_one_of_an_earlier_task_passed_over(stopped, tmp_path):
    stop, run = stopped
    path = stop("--checkpoint-every", "1 step")
    whole = path.read_bytes()
    for change, reason in (
        (whole[:-7], "damaged checkpoint"),
        (whole[:-100] + bytes(100), "its digest is another one"),
    ):
        path.write_bytes(change)
        result = run()
        assert result.exit_code == 2
        output = " ".join(result.output.split())
        assert path.name in output
        assert reason in output
    content = load_checkpoint_of(path, whole)
    save_checkpoint(path, {**content, "after": 0}, identity_of_file(path, whole))
    (tmp_path / "steps").unlink()
    assert run().exit_code == 0
    assert (tmp_path / "steps").read_text().split()[0] == "1"


def identity_of_file(path, whole):
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        return file.metadata()["identity"]


def load_checkpoint_of(path, whole):
    return load_checkpoint(path, torch.device("cpu"), identity_of_file(path, whole))


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("10m", Every(seconds=600)), ("10", Every(seconds=600)), ("90s", Every(seconds=90)), ("1.5h", Every(seconds=5400)),
        ("100 steps", Every(steps=100)), ("1step", Every(steps=1)), ("0", Every()), ("none", Every()), ("0s", Every()),
    ],
)  # fmt: skip
def test_how_often_is_said_as_people_say_it(text, every):
    assert Every.parse(text) == every
    assert bool(every) == (every != Every())


def test_what_is_no_time_is_refused(clbench, tiny_run):
    for text in ("soon", "-5m", "10 days", "m"):
        result = clbench(*tiny_run, "--method", "seqlora", "--checkpoint-every", text)
        assert result.exit_code == 2
        assert "--checkpoint-every" in result.output
        assert "not a time or a number of steps" in " ".join(result.output.split())
