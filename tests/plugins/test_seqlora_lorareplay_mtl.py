"""The baselines: what they share and where they part."""

from dataclasses import replace

import torch

from clbench.plugins.ewc import EWC
from clbench.plugins.lorareplay import LoRAReplay
from clbench.plugins.migu import MIGU
from clbench.plugins.mtl import MTL
from clbench.plugins.rkif_variants import RecurrentKIFVariants as RecurrentKIF
from clbench.plugins.seqlora import SeqLoRA
from clbench.plugins.tasl import TaSL
from clbench.plugins.vrmcl import VRMCL


def learn(learner, tasks, method):
    for index, task in enumerate(tasks):
        learner.begin_task(index)
        method.learn_task(learner, task)
    return learner.weights.copy()


def test_replay_of_nothing_is_seqlora_bitwise(make_learner, toy_tasks):
    plain = learn(make_learner(), toy_tasks, SeqLoRA())
    assert torch.equal(learn(make_learner(), toy_tasks, LoRAReplay(memory_ratio=0)), plain)
    assert not torch.equal(learn(make_learner(), toy_tasks, LoRAReplay(memory_ratio=0.25)), plain)


def test_the_first_task_is_the_same_for_all(make_learner, toy_tasks):
    methods = [factory() for factory in (SeqLoRA, LoRAReplay, RecurrentKIF, MTL, EWC, MIGU, TaSL, VRMCL)]
    ends = [learn(make_learner(), toy_tasks[:1], method) for method in methods]
    assert all(torch.equal(ends[0], end) for end in ends[1:])


def test_concat_makes_the_epoch_longer_by_the_memory(make_learner, toy_tasks):
    learner, method = make_learner(epochs=2, batch_size=4), LoRAReplay(memory_ratio=0.25)
    learner.begin_task(0)
    assert method.learn_task(learner, toy_tasks[0])["steps"] == 2 * 24 / 4
    learner.begin_task(1)
    report = method.learn_task(learner, toy_tasks[1])
    assert report["steps"] == 2 * -(-(24 + 6) // 4)
    assert report["remembered"] == 12


class FakeRun:
    """Stands for a run: notes what is learned and evaluated."""

    def __init__(self, tasks):
        self.tasks, self.learned, self.evaluated = tasks, [], []

    def learn(self, task, index):
        self.learned.append(task)

    def evaluate(self, index, which):
        self.evaluated.append((index, list(which)))


def test_mtl_learns_the_union_once_whatever_the_order(toy_tasks):
    third = replace(toy_tasks[0], name="another", train=toy_tasks[0].train[:5])
    seen = []
    for tasks in ([*toy_tasks, third], [third, *toy_tasks[::-1]]):
        run = FakeRun(tasks)
        assert MTL().run_stream(run) is True
        assert run.evaluated == [(2, [0, 1, 2])]
        (union,) = run.learned
        seen.append(union.train)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 24 + 24 + 5
