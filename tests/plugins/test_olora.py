"""O-LoRA and IncLoRA: the numeric properties of their specification, with the real methods."""

import math
from dataclasses import replace

import pytest
import torch

from clbench.plugins.inclora import IncLoRA
from clbench.plugins.olora import OLoRA
from clbench.plugins.seqlora import SeqLoRA
from clbench.records.metrics import backward_transfer, overall_performance
from clbench.running.checkpoints import state_of
from clbench.running.cost import bytes_of


def learn(make_learner, tasks, method, **settings):
    learner = make_learner(method.attach, **settings)
    reports = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return learner, reports


def drawn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def method_with(old, **options):
    """O-LoRA with frozen A's of shape (layers, old ranks, inputs), B's to match, and where the new A's are."""
    method = OLoRA(**options)
    layers, _, inputs = old.shape
    method.past = {f"A {inputs}": old, f"B {inputs}": drawn((layers, inputs, old.shape[1]), 9)}
    return method, {f"A {inputs}": torch.arange(layers * 2 * inputs).view(layers, 2, inputs)}


def test_the_orthogonality_by_hand():
    old = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]])
    new = torch.tensor([[[1.0, -1.0, 0.0], [3.0, 0.0, 1.0]]])  # products: [[-1, 3], [-1, 1]]
    method, positions = method_with(old)
    assert method.orthogonality(new.flatten(), positions) == 6
    squared, _ = method_with(old, ortho_norm="l2sq")
    assert squared.orthogonality(new.flatten(), positions) == 12
    assert OLoRA().orthogonality(new.flatten(), positions) == 0  # the first task


def test_it_vanishes_in_the_null_space_and_is_homogeneous():
    old, new = torch.zeros(3, 4, 6), torch.zeros(3, 2, 6)
    old[..., :4], new[..., 4:] = drawn((3, 4, 4), 0), drawn((3, 2, 2), 1)
    method, positions = method_with(old)
    assert method.orthogonality(new.flatten(), positions) == 0
    other = drawn((3, 2, 6), 2).flatten()
    once = method.orthogonality(other, positions)
    assert once > 0
    assert method.orthogonality(-3 * other, positions).item() == pytest.approx(3 * once.item(), rel=1e-5)


def test_its_size_at_t5_large_after_one_and_two_tasks():
    """Uniform A's of rank 8 in 144 layers of 1024 inputs: 144 * 64 * sqrt(2/pi) / (3 * sqrt(1024)) per earlier task."""
    draws = torch.empty(144, 24, 1024).uniform_(-1 / 32, 1 / 32, generator=torch.Generator().manual_seed(0))
    expected = 144 * 64 * math.sqrt(2 / math.pi) / (3 * math.sqrt(1024))
    assert expected == pytest.approx(76.6, abs=0.05)
    positions = {"A 1024": torch.arange(144 * 8 * 1024).view(144, 8, 1024)}
    for tasks in (1, 2):
        method = OLoRA()
        method.past = {"A 1024": draws[:, 8 : 8 + 8 * tasks]}
        found = method.orthogonality(draws[:, :8].flatten(), positions)
        assert found.item() == pytest.approx(tasks * expected, rel=0.03)


def test_its_sum_is_taken_in_float32():
    """In bfloat16 a running sum of ones stops at 256."""
    method, positions = method_with(torch.ones(1, 8, 512, dtype=torch.bfloat16) / 512)
    found = method.orthogonality(torch.ones(2 * 512, dtype=torch.bfloat16), positions)
    assert found.item() == pytest.approx(16, rel=1e-6)
    assert OLoRA().orthogonality(torch.ones(2, dtype=torch.bfloat16), {}).dtype == torch.float32
    gradient = torch.zeros(2 * 512)
    method.add_gradient(torch.ones(2 * 512, dtype=torch.bfloat16), positions, gradient)
    assert torch.allclose(gradient, torch.full((1024,), 0.5 * 8 / 512), rtol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2sq"])
def test_the_gradient_is_that_of_the_penalty(norm):
    """Only the new A's get the first, A's and B's the second; both weighted, nothing averaged."""
    method, positions = method_with(drawn((3, 4, 5), 0), lambda1=0.7, lambda2=0.3, ortho_norm=norm)
    positions["B 5"] = 30 + torch.arange(30).view(3, 5, 2)
    weights = drawn(60, 1).requires_grad_()
    tensors = weights.view(6, 10)
    penalty = 0.7 * method.orthogonality(weights, positions) + 0.3 * sum(t.square().sum().sqrt() for t in tensors)
    penalty.backward()
    found = torch.ones(60)
    method.add_gradient(weights.detach(), positions, found)
    assert torch.allclose(found - 1, weights.grad, atol=1e-5)
    zeros = torch.zeros(60)
    method.add_gradient(torch.zeros(60), positions, zeros)
    assert not zeros.any()  # B = 0 at the start of a task: no nan


def test_without_penalties_it_is_inclora_bitwise(make_learner, toy_tasks):
    tasks = [*toy_tasks, replace(toy_tasks[0], name="third")]
    plain, _ = learn(make_learner, tasks, IncLoRA())
    weights, past = plain.weights.copy(), plain.attached.blocks.past
    free, _ = learn(make_learner, tasks, OLoRA(lambda1=0.0))
    assert torch.equal(free.weights.data, weights)
    assert all(torch.equal(free.attached.blocks.past[key], tensor) for key, tensor in past.items())
    assert {key: tensor.shape[1 if key[0] == "A" else 2] for key, tensor in past.items()} == {"A 32": 4, "B 32": 4}
    held, reports = learn(make_learner, tasks, OLoRA(lambda1=0.5))
    assert not torch.equal(held.weights.data, weights)
    assert reports[0]["orthogonality"] == 0


def test_the_first_task_is_seqlora_bitwise(make_learner, toy_tasks):
    plain = make_learner()
    SeqLoRA().learn_task(plain, toy_tasks[0])
    weights = plain.weights.copy()
    for method in (IncLoRA(), OLoRA()):
        assert torch.equal(learn(make_learner, toy_tasks[:1], method)[0].weights.data, weights)


def test_the_penalty_makes_a_orthogonal_and_is_reported_apart_from_the_loss(make_learner, toy_tasks):
    found = {}
    for strength in (0.0, 0.05, 50.0):
        _, reports = learn(make_learner, toy_tasks, OLoRA(lambda1=strength), epochs=4)
        found[strength] = reports[1]
    assert found[0.05]["orthogonality"] < 0.8 * found[0.0]["orthogonality"]
    assert found[50.0]["loss"] == pytest.approx(found[0.0]["loss"], rel=0.5)  # cross-entropy, not thousands
    assert found[50.0]["orthogonality"] > 0
    assert 0 < found[50.0]["norm_a"] < found[0.0]["norm_a"]  # too strong a penalty shrinks A: to be seen in the record


def test_the_norm_of_a_is_reported(make_learner, toy_tasks):
    learner, reports = learn(make_learner, toy_tasks[:1], OLoRA())
    views = learner.weights.views(learner.weights.data)
    norm = sum(view.square().sum().item() for name, view in views.items() if "lora_A" in name) ** 0.5
    assert reports[0]["norm_a"] == pytest.approx(norm, rel=1e-5)


def test_every_task_draws_a_block_of_its_own(make_learner, toy_tasks):
    learner, _ = learn(make_learner, [*toy_tasks, toy_tasks[0]], IncLoRA(), learning_rate=1e-12)
    blocks = [
        *learner.attached.blocks.past["A 32"].split(2, 1),
        learner.weights.data[learner.attached.blocks.positions(learner.weights)["A 32"]],
    ]
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        for other in blocks[:number]:
            assert (block - other).abs().mean() > 0.05  # bounds are +-0.18


def test_the_penalty_enters_once_a_step_whatever_the_micro_batches(make_learner, toy_tasks):
    ends = []
    for size in (None, 2):
        learner, _ = learn(make_learner, toy_tasks, OLoRA(lambda1=0.1), lora_dropout=0.0, micro_batch=size)
        ends.append(learner.weights.copy())
    assert torch.allclose(*ends, atol=1e-4)


def test_frozen_blocks_stay_under_weight_decay(make_learner, toy_tasks):
    method = OLoRA()
    learner, _ = learn(make_learner, toy_tasks, method, weight_decay=0.5)
    first = {key: tensor.clone() for key, tensor in method.past.items()}
    learner.begin_task(2, toy_tasks[0])
    method.learn_task(learner, toy_tasks[0])
    for key, tensor in first.items():
        kept = method.past[key].narrow(1 if key[0] == "A" else 2, 0, 2)
        assert torch.equal(kept, tensor)
    per_task = sum(tensor.numel() * 4 for tensor in first.values())
    assert bytes_of(state_of(method)) == 2 * per_task  # linear in the number of tasks; the cost meter counts it


@pytest.mark.parametrize("factory", [IncLoRA, OLoRA])
def test_an_answer_does_not_depend_on_its_neighbours(make_learner, toy_tasks, factory):
    learner, _ = learn(make_learner, toy_tasks, factory(), max_answer=8)
    learner.weights.data.add_(drawn(len(learner.weights), 0) / 3)  # so that answers differ
    examples = toy_tasks[1].test + toy_tasks[0].test
    together = learner.answer(examples)
    assert len(set(together)) > 1
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]


def test_the_released_matrices_give_the_released_op_and_bwt():
    """Order 1 of the released logs (dbpedia, amazon, yahoo, agnews): O-LoRA and IncLoRA."""
    olora = [[98.7105], [98.5526, 57.7632], [97.4079, 57.4079, 71.9079], [97.7368, 56.0658, 71.0395, 88.6184]]
    inclora = [[98.7105], [82.4737, 57.0132], [80.7763, 44.9474, 72.3816], [79.5, 40.8158, 64.1447, 90.0132]]
    for matrix, op, bwt in ((olora, 78.3651, -1.1798), (inclora, 68.6184, -14.5483)):
        scores = [row + [None] * (4 - len(row)) for row in matrix]
        assert overall_performance(scores) == pytest.approx(op, abs=1e-4)
        assert backward_transfer(scores) == pytest.approx(bwt, abs=1e-4)
