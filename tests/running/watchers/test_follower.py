"""The time that a run takes yet, as it is told while it learns."""

from types import SimpleNamespace

import pytest
import torch

from clbench.running.watchers import follower


@pytest.mark.parametrize(("rows", "left"), [(10, 300), (40, 60)], ids=["a task of four", "all tasks at once"])
def test_the_seconds_left(monkeypatch, rows, left):
    """After 20 seconds a quarter of what is learned first is done: a sixteenth of all rows, or a quarter of them."""
    clock = [0.0]
    monkeypatch.setattr(follower.time, "monotonic", lambda: clock[0])
    told = []
    watcher = follower.Follower([told.append])
    tasks = [SimpleNamespace(name=f"t{number}", train=range(10)) for number in range(4)]
    next(watcher.run_stream(SimpleNamespace(tasks=tasks, progress=SimpleNamespace(done=0))))
    learner = SimpleNamespace(task_index=0)
    next(watcher.learn_task(learner, SimpleNamespace(name="first", train=range(rows))))
    clock[0] = 20.0
    watcher.train_step(learner, 5, 20, torch.tensor(1.0))
    assert told[-1].seconds_left == left
