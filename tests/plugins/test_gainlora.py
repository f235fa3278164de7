"""GainLoRA: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch

from clbench.encoding.batches import Batch
from clbench.learning.input_spaces import outside
from clbench.plugins.gainlora import GainLoRA, Gates, Hold, openness
from clbench.plugins.olora import OLoRA
from clbench.running.checkpoints import restore_state, state_of
from tests.model.test_lora_blocks import logits, one_batch
from tests.plugins.test_olora import drawn, learn


def three(toy_tasks):
    return [*toy_tasks, replace(toy_tasks[0], name="third", train=toy_tasks[0].train[::-1])]


def shares(learner, method, batch):
    with torch.no_grad():
        return learner.attached.part(Gates)(method.pooled(learner, batch.input_ids, batch.attention_mask))


def test_how_far_a_gate_is_open():
    keys = torch.tensor([1.0, 0.0])
    for cosine, expected in ((0.0, 0.0), (0.5, 0.7616), (1.0, 0.9640), (-1.0, 0.9640), (-0.5, 0.7616)):
        features = 3 * torch.tensor([cosine, (1 - cosine**2) ** 0.5])
        assert openness(features, 2 * keys).item() == pytest.approx(expected, abs=1e-4)
        assert abs(2 / (1 + torch.tensor(-4 * cosine).exp()).item() - 1) == pytest.approx(expected, abs=1e-4)


def test_a_gate_by_hand_and_frozen_ones_beside_it():
    gates = Gates(2, 1, {})
    gates.down.weight.data[:], gates.up.weight.data[:] = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0], [0.0]])
    gates.key.data[:] = torch.tensor([0.0, 3.0])
    pooled = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    read = gates.read(pooled)
    assert torch.allclose(read["hidden"], torch.tensor(0.7311), atol=1e-4)  # silu(1)
    assert torch.allclose(read["features"], torch.tensor([1.1869, 0.0]), atol=1e-3)  # silu(1.4621)
    assert gates(pooled).shape == (2, 1)
    assert torch.allclose(gates(pooled), torch.zeros(1), atol=1e-6)  # g is (silu(1.46), 0), the key is orthogonal
    gates.key.data[:] = torch.tensor([5.0, 0.0])
    opened = gates(pooled)
    assert torch.allclose(opened, torch.tensor(0.9640), atol=1e-4)
    past = gates.freeze()
    gates.key.data[:] = torch.tensor([0.0, 1.0])
    assert {name: tuple(tensor.shape) for name, tensor in past.items()} == {
        "down": (1, 1, 2), "up": (1, 2, 1), "key": (1, 2),
    }  # fmt: skip
    assert torch.allclose(gates(pooled), torch.tensor([0.9640, 0.0]), atol=1e-4)  # oldest first


def test_pooling_knows_no_padding(make_learner):
    learner = make_learner()
    table = learner.model.get_input_embeddings().weight
    ids, mask = torch.tensor([[5, 9, 7], [4, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    rows = torch.stack([table[5], table[9], table[7]])
    mean, most = (GainLoRA(pool=pool).pooled(learner, ids, mask) for pool in ("mean", "max"))
    assert torch.allclose(mean, torch.stack([rows.mean(0), table[4]]), atol=1e-6)
    assert torch.allclose(most, torch.stack([rows.amax(0), table[4]]), atol=1e-6)


def test_a_projected_step_is_unnoticed_by_old_inputs_and_projecting_again_changes_nothing():
    torch.manual_seed(0)
    gates, old = Gates(6, 4, {}), drawn((2, 6), 0)
    read = gates.read(old)
    bases = {name: torch.linalg.qr(rows.detach().T)[0] for name, rows in read.items()}
    gates.part("key").copy_(outside(bases["features"], gates.part("key").t()).t())  # as a new key is
    before, of_new = gates.read(old)["features"].detach(), gates(drawn((2, 6), 9)).detach()
    hold = Hold(gates, bases)
    for part in ("down", "up", "key"):
        gates.part(part).add_(drawn(gates.part(part).shape, 3))
    assert gates(old).max() > 0.1
    hold.project()
    assert torch.allclose(gates.read(old)["features"], before, atol=1e-5)
    assert gates(old).max() < 1e-5
    assert not torch.allclose(gates(drawn((2, 6), 9)), of_new, atol=1e-3)  # new inputs notice the step
    kept = {part: gates.part(part).clone() for part in ("down", "up", "key")}
    hold.project()
    assert all(torch.allclose(gates.part(part), tensor, atol=1e-6) for part, tensor in kept.items())
    assert Hold(gates, {}).held == []  # the first task


def test_a_new_gate_is_shut_for_the_old_task_and_open_for_its_own(make_learner, toy_tasks):
    """All that the gate has read of the first task is in the basis: there its a is 0 before and after the second."""
    method = GainLoRA(gate_threshold=1.0, bottleneck=40)
    settings = {"stream_length": 2, "learning_rate": 3e-3}
    learner, reports = learn(make_learner, toy_tasks[:1], method, **settings)
    old = toy_tasks[0].train[:4]
    first = replace(toy_tasks[0], train=old)
    method.gate_bases.clear()
    method.extend_gate_bases(learner, old)
    batch = one_batch(learner, first)
    opened = shares(learner, method, batch)
    learner.begin_task(1, toy_tasks[1])
    report = method.learn_task(learner, toy_tasks[1])
    found = shares(learner, method, batch)
    assert torch.allclose(found[:, :1], opened, atol=1e-6)  # the frozen gate
    assert found[:, 1].max() < 1e-2
    assert report["own_share"] > 0.1
    assert reports[0]["own_share"] > 0.5


@pytest.mark.parametrize("base", ["inflora", "olora"])
def test_frozen_blocks_and_gates_stay(make_learner, toy_tasks, base):
    method = GainLoRA(base=base)
    learner, reports = learn(make_learner, toy_tasks, method, stream_length=3, weight_decay=0.5)
    before = {name: tensor.clone() for name, tensor in [*method.past.items(), *method.gates.items()]}
    learner.begin_task(2, toy_tasks[0])
    method.learn_task(learner, three(toy_tasks)[2])
    for name, tensor in [*method.past.items(), *method.gates.items()]:
        axis = 0 if name in method.gates else 1 if name.startswith("A") else 2
        assert tensor.shape[axis] == 2 * before[name].shape[axis]
        assert torch.equal(tensor.narrow(axis, 0, before[name].shape[axis]), before[name])
    assert bool(method.bases) == (base == "inflora")
    assert reports[1]["gate_directions"] >= reports[0]["gate_directions"] >= 3


def test_the_base_olora_is_its_penalty(make_learner, toy_tasks):
    measure = OLoRA()
    norms = []
    for strength in (0.0, 5.0):
        method = GainLoRA(base="olora", lambda1=strength)
        learner, _ = learn(make_learner, toy_tasks, method, stream_length=2, epochs=3)
        measure.past = method.past
        positions = learner.attached.blocks.positions(learner.weights)
        norms.append(float(measure.orthogonality(learner.weights.data, positions)))
    assert norms[1] < 0.8 * norms[0]


def test_a_learner_restored_from_state_and_files_answers_alike(make_learner, toy_tasks, tmp_path):
    method = GainLoRA()
    learner, _ = learn(make_learner, three(toy_tasks), method, stream_length=3)
    batch = one_batch(learner, toy_tasks[1])
    expected, opened = logits(learner, batch), shares(learner, method, batch)
    assert opened.shape == (6, 3)
    wide = Batch(*(torch.nn.functional.pad(t, (0, 9)) for t in (batch.input_ids, batch.attention_mask)), batch.labels)
    assert torch.allclose(logits(learner, wide), expected, atol=1e-4)
    learner.attached.save(tmp_path)
    again = GainLoRA()
    restore_state(again, state_of(method))
    loaded = make_learner(again.attach, seed=5)
    assert not torch.equal(logits(loaded, batch), expected)
    loaded.attached.load(tmp_path)
    assert torch.equal(logits(loaded, batch), expected)
