"""InfLoRA: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch

from clbench.encoding.batches import Batch
from clbench.learning.input_spaces import extended, first_readers, input_moments, main_directions, outside
from clbench.plugins.inflora import Design, InfLoRA, grown
from tests.model.test_lora_blocks import one_batch
from tests.plugins.test_olora import drawn, learn


def test_a_basis_takes_as_few_directions_as_hold_the_energy():
    """Eigenvalues 4, 2, 1, 0: squares 16, 4, 1 of 21."""
    moment = torch.diag(torch.tensor([1.0, 4.0, 0.0, 2.0]))
    first = extended(None, moment, 0.76)
    assert torch.allclose(first.abs(), torch.eye(4)[:, [1]])
    second = extended(None, moment, 0.77)
    assert torch.allclose(second.abs(), torch.eye(4)[:, [1, 3]])
    assert extended(first, moment, 0.76) is first
    assert torch.allclose(extended(first, moment, 0.77).abs(), torch.eye(4)[:, [1, 3]])
    assert extended(second, moment, 0.96).shape == (4, 3)
    assert extended(None, moment, 1.0).shape[1] <= 4


def test_the_projection_is_idempotent_and_the_basis_orthonormal():
    inputs = drawn((50, 8), 0) @ torch.diag(torch.arange(8.0))
    basis = extended(None, inputs.T @ inputs, 0.9)
    basis = extended(basis, drawn((8, 8), 1) @ drawn((8, 8), 1).T, 0.9)
    assert 1 < basis.shape[1] < 8
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    matrix = drawn((8, 3), 2)
    once = outside(basis, matrix)
    assert torch.allclose(outside(basis, once), once, atol=1e-5)
    assert torch.allclose(basis.T @ once, torch.zeros(1), atol=1e-5)


def test_main_directions_are_outside_the_basis_and_0_where_there_are_none():
    moment = torch.diag(torch.tensor([1.0, 4.0, 3.0, 2.0]))
    basis = torch.eye(4)[:, [1, 0]]
    assert torch.allclose(main_directions(basis, moment, 1).abs(), torch.eye(4)[[2]], atol=1e-6)
    rows = main_directions(basis, moment, 5)
    assert torch.allclose(rows[:2].abs(), torch.eye(4)[[2, 3]], atol=1e-6)
    assert rows.shape == (5, 4)
    assert not rows[2:].any()


@pytest.mark.parametrize("maker", ["make_learner", "make_decoder"])
def test_moments_are_means_over_tokens_whatever_the_batches(request, toy_tasks, maker):
    """Of all layers, those of prompts, answers and both; each row alone has no padding."""
    make = request.getfixturevalue(maker)
    learner = make(lambda one: one.attached.add_blocks({}), lora_targets="all-linear")
    readers = first_readers(learner)
    assert len(set(readers.values())) < len(readers)
    rows = toy_tasks[0].train[:5]
    found = input_moments(learner, readers, rows)
    assert found.keys() == set(readers.values())
    total = {name: torch.zeros_like(moment) for name, moment in found.items()}
    tokens = dict.fromkeys(found, 0)
    for row in rows:
        for name, moment in input_moments(learner, readers, [row]).items():
            (batch,) = learner.feed.once([row])
            prompt, answer = int(batch.attention_mask.sum()), batch.labels.shape[1]
            decoder_only = maker == "make_decoder"
            of_prompt = name.startswith("encoder") or any(
                kind in name for kind in ("EncDecAttention.k", "EncDecAttention.v")
            )
            count = prompt + answer if decoder_only else prompt if of_prompt else answer
            total[name] += count * moment
            tokens[name] += count
    for name, moment in found.items():
        assert torch.allclose(moment, total[name] / tokens[name], atol=1e-4, rtol=1e-3), name
    layer = learner.attached.blocks.layers[next(iter(found))]
    assert not layer._forward_pre_hooks


def test_prompts_and_answers_of_one_width_are_told_apart(make_learner, toy_tasks, monkeypatch):
    learner = make_learner(lambda one: one.attached.add_blocks({}))
    readers, batch = first_readers(learner), one_batch(learner, toy_tasks[0])
    width = batch.input_ids.shape[1]
    square = Batch(
        batch.input_ids,
        batch.attention_mask,
        torch.nn.functional.pad(batch.labels, (0, width - batch.labels.shape[1]), value=-100),
    )
    moments = []
    for one in (batch, square):
        monkeypatch.setattr(learner.feed, "once", lambda examples, one=one: iter([one]))
        moments.append(input_moments(learner, readers, ()))
    assert all(torch.allclose(moment, moments[1][name], atol=1e-5) for name, moment in moments[0].items())


def test_a_is_designed_frozen_and_reads_nothing_old(make_learner, toy_tasks):
    tasks = [*toy_tasks, replace(toy_tasks[0], name="third", train=toy_tasks[0].train[::-1])]
    method = InfLoRA(threshold=0.9)
    learner = make_learner(method.attach, stream_length=3, weight_decay=0.5, lora_targets="all-linear")
    blocks = learner.attached.blocks
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        old = dict(method.bases)
        report = method.learn_task(learner, task)
        pairs = blocks.pairs(learner.weights, learner.weights.data)
        readers = first_readers(learner)
        for name, (down, up) in zip(blocks.layers, pairs, strict=True):
            norms = down.norm(dim=1)
            assert ((norms - 3**-0.5).abs() < 1e-4).logical_or(norms == 0).all()  # weight decay has not shrunk it
            assert up.any()
            if index:
                assert (down @ old[readers[name]]).abs().max() < 1e-4
        assert report["directions"] >= sum(basis.shape[1] for basis in old.values())
    again = Design(learner, old, tasks[-1].train)  # where the A's are
    assert learner.weights.grad.any()
    assert not learner.weights.grad[again.where].any()  # taken out before clipping


def test_old_inputs_give_what_they_gave_where_the_basis_holds_them(make_learner, toy_tasks):
    """A first layer reads the frozen embeddings: what lies in the basis it computes as it did, though its block has learned."""
    method = InfLoRA(threshold=0.9)
    learner = make_learner(method.attach, stream_length=2)
    learner.begin_task(0, toy_tasks[0])
    method.learn_task(learner, toy_tasks[0])
    layer = next(iter(learner.attached.blocks.layers.values()))
    basis = method.bases[next(iter(learner.attached.blocks.layers))]
    x = (drawn((4, basis.shape[1]), 0) @ basis.T)[None]
    layer.eval()
    before = layer(x).detach()
    learner.begin_task(1, toy_tasks[1])
    method.learn_task(learner, toy_tasks[1])
    layer.eval()
    assert basis.shape[1] < basis.shape[0]
    assert all(tensor.any() for tensor in learner.attached.blocks.pairs(learner.weights, learner.weights.data)[0])
    assert torch.allclose(layer(x), before, atol=1e-4)


def test_the_threshold_grows_over_the_stream(make_learner, toy_tasks):
    learner = make_learner(stream_length=4)
    found = []
    for index in range(4):
        learner.begin_task(index, toy_tasks[0])
        found.append(grown(0.8, learner))
    assert found == pytest.approx([0.8, 0.85, 0.9, 0.95])
    _, reports = learn(make_learner, toy_tasks, InfLoRA(threshold=0.5), stream_length=2)
    _, more = learn(make_learner, toy_tasks, InfLoRA(threshold=0.99), stream_length=2)
    _, slowly = learn(make_learner, toy_tasks, InfLoRA(threshold=0.5), stream_length=20)
    assert reports[0]["directions"] == slowly[0]["directions"] < more[0]["directions"]
    assert slowly[1]["directions"] < reports[1]["directions"]
