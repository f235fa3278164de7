"""SAPT: the numeric properties of its specification, with the real method."""

import math
from dataclasses import replace

import pytest
import torch

from clbench.encoding.batches import Batch
from clbench.plugins.sapt import (
    SAPT,
    Reflection,
    SharedAttention,
    divergence,
    mean_attention,
    reflection_on,
    summaries_of,
    summarise,
)
from clbench.plugins.seqlora import SeqLoRA
from clbench.running.checkpoints import restore_state, state_of
from tests.conftest import add_lora
from tests.model.test_lora_blocks import logits, one_batch


def drawn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def learn(make_learner, tasks, method, **settings):
    learner = make_learner(method.attach, **{"lora_targets": "all-linear", **settings})
    reports = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return learner, reports


def three(toy_tasks):
    return [*toy_tasks, replace(toy_tasks[0], name="third", train=toy_tasks[0].train[::-1])]


def longer(batch, tokens):
    return Batch(
        torch.nn.functional.pad(batch.input_ids, (0, tokens)),
        torch.nn.functional.pad(batch.attention_mask, (0, tokens)),
        batch.labels,
    )


def attend(learner, batch):
    with torch.no_grad():
        return learner.attached.parts["attention"](summarise(learner, batch.input_ids, batch.attention_mask)).exp()


def test_the_first_task_is_plain_lora(make_learner, toy_tasks):
    learner, reports = learn(make_learner, toy_tasks[:1], SAPT(), clip_norm=0.0)
    assert torch.equal(attend(learner, one_batch(learner, toy_tasks[0])), torch.ones(6, 1))
    assert reports[0]["own_share"] == 1
    assert reports[0]["reflection"] == 0
    found = {
        name: view.clone() for name, view in learner.weights.views(learner.weights.data).items() if "lora_" in name
    }
    plain = make_learner(lora_targets="all-linear", clip_norm=0.0)
    SeqLoRA().learn_task(plain, toy_tasks[0])
    expected = plain.weights.views(plain.weights.data)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_new_block_takes_its_share_from_the_old_ones_exactly(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, toy_tasks, method)
    layer = learner.attached.blocks.layers["encoder.block.0.layer.1.DenseReluDense.wo"]  # 48 -> 32
    batch, x = one_batch(learner, toy_tasks[0]), drawn((6, 5, 48), 0)
    learner.model.eval()

    def contribution():
        logits(learner, batch)
        with torch.no_grad():
            return layer(x) - layer.base_layer(x), attend(learner, batch)

    before, _ = contribution()
    method.start_block(learner)
    after, shares = contribution()
    assert shares.shape == (6, 3)
    assert (shares[:, 2] > 0.01).all()
    assert before.abs().max() > 1e-3
    assert torch.allclose(after, (1 - shares[:, 2])[:, None, None] * before, atol=1e-6)


def test_attention_sums_to_1_and_knows_neither_padding_nor_neighbours(make_learner, toy_tasks):
    learner, _ = learn(make_learner, three(toy_tasks), SAPT(memory_ratio=0.25))
    batch = one_batch(learner, toy_tasks[1])
    shares = attend(learner, batch)
    assert shares.shape == (6, 3)
    assert (shares >= 0).all()
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert torch.equal(attend(learner, longer(batch, 9)), shares)  # the padding's embedding never enters the maximum
    single = Batch(batch.input_ids[2:3], batch.attention_mask[2:3], batch.labels[2:3])
    assert torch.allclose(attend(learner, single), shares[2:3], atol=1e-6)
    assert torch.allclose(logits(learner, longer(batch, 9)), logits(learner, batch), atol=1e-5)


def test_the_query_is_the_maximum_over_tokens(make_learner, toy_tasks):
    learner = make_learner()
    table = learner.model.get_input_embeddings().weight
    ids = torch.tensor([[5, 9, 7], [4, 0, 0]])
    found = summarise(learner, ids, torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert torch.equal(found[0], torch.stack([table[5], table[9], table[7]]).amax(0))
    assert torch.equal(found[1], table[4])


def test_the_forms_of_the_query_and_the_size_of_g():
    attention = SharedAttention(1024)
    parts = (attention.down, attention.up, attention.norm)
    assert sum(p.numel() for part in parts for p in part.parameters()) == 206_848
    x, past = drawn((3, 16), 0), drawn((2, 16), 1)
    for query in ("code", "paper"):
        torch.manual_seed(0)
        attention = SharedAttention(16, 4, query, 2.0, past)
        low, silu = x @ attention.down.weight.T, torch.nn.functional.silu
        high = silu(low @ attention.up.weight.T) if query == "code" else silu(low) @ attention.up.weight.T
        normed = (high - high.mean(1, keepdim=True)) / (high.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        scores = normed @ torch.cat([past, attention.key[None]]).T / (2.0 * 4)
        assert torch.allclose(attention(x), scores.log_softmax(-1), atol=1e-5)


def test_the_divergence_by_hand():
    found = torch.tensor([0.2, 0.8 * 0.25, 0.8 * 0.75])
    target = torch.tensor([0.0, 0.25, 0.75])
    assert divergence(target, found.log()).item() == pytest.approx(-math.log(0.8), abs=1e-6)
    assert -math.log(0.8) == pytest.approx(0.2231, abs=1e-4)
    assert divergence(found, found.log()).item() == pytest.approx(0, abs=1e-7)
    assert divergence(torch.tensor([0.3, 0.1, 0.6]), found.log()).item() > 1e-3


def test_the_reflection_averages_each_task_and_sums_over_tasks(make_learner):
    learner = make_learner()
    torch.manual_seed(0)
    attention = SharedAttention(8, 4, past_keys=drawn((2, 8), 0))
    summaries = [drawn((3, 8), 1), drawn((7, 8), 2)]
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.6, 0.0]])
    expected = sum(
        divergence(target, attention(rows)).mean() for target, rows in zip(targets, summaries, strict=True)
    ).item()
    whole = Reflection(attention, summaries, targets, 8, torch.Generator().manual_seed(0), learner.cost)
    assert whole.divergence().item() == pytest.approx(expected, rel=1e-5)
    assert (learner.cost.rows, learner.cost.replayed_rows) == (10, 10)
    part = Reflection(attention, summaries, targets, 2, torch.Generator().manual_seed(0), learner.cost)
    drawings = torch.stack([part.divergence().detach() for _ in range(600)])
    assert drawings.std() > 0
    assert drawings.mean().item() == pytest.approx(expected, rel=0.03)
    assert learner.cost.rows == 10 + 600 * 4


def test_the_reflection_reaches_only_g_and_the_current_key(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, toy_tasks, method)
    method.start_block(learner)
    learner.weights.zero_grad()
    learner.passes.backward(reflection_on(learner, method.means, method.memory).divergence())
    moved = {name for name, view in learner.weights.views(learner.weights.grad).items() if view.any()}
    assert moved == {f"attention.{name}" for name in ("key", "down.weight", "up.weight", "norm.weight", "norm.bias")}
    assert learner.attached.parts["attention"].past_keys.grad is None
    learner.passes.backward(learner.loss(one_batch(learner, toy_tasks[0])))
    assert any(view.any() for name, view in learner.weights.views(learner.weights.grad).items() if "lora_B" in name)


def test_the_cross_entropy_trains_g_and_the_key_through_the_attention(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, toy_tasks, method)
    method.start_block(learner)  # B = 0: only the frozen blocks' shares can matter
    learner.weights.zero_grad()
    learner.passes.backward(learner.loss(one_batch(learner, toy_tasks[0])))
    moved = {name for name, view in learner.weights.views(learner.weights.grad).items() if view.any()}
    assert {"attention.key", "attention.down.weight", "attention.up.weight"} <= moved
    assert not any("lora_A" in name for name in moved)


def test_frozen_blocks_see_no_dropout(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, toy_tasks, method, lora_dropout=0.9)
    batch = one_batch(learner, toy_tasks[0])
    learner.passes.train_mode()
    assert learner.loss(batch).item() != learner.loss(batch).item()  # the current block's
    method.start_block(learner)  # B = 0: the current block adds nothing
    assert learner.loss(batch).item() == learner.loss(batch).item()


def test_the_mean_is_over_examples_whatever_their_batches(make_learner, toy_tasks):
    rows = toy_tasks[1].train[:9]
    for size in (8, 4):  # the last batch is a single row
        learner, _ = learn(make_learner, toy_tasks, SAPT(memory_ratio=0.25), batch_size=size)
        alone = torch.cat([attend(learner, learner.feed.batch([row])) for row in rows]).mean(0)
        assert torch.allclose(mean_attention(learner, rows), alone, atol=1e-6)


def test_targets_keep_the_order_of_keys_and_give_newer_blocks_nothing(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, three(toy_tasks), method)
    means = dict(method.means)
    assert [len(mean) for mean in means.values()] == [1, 2, 3]
    reflection = reflection_on(learner, {name: means[name] for name in list(means)[:2]}, method.memory)
    first, second = reflection.targets
    assert first.tolist() == [1, 0, 0]
    assert second.tolist() == [*means[toy_tasks[1].name].tolist(), 0]
    summaries = summaries_of(learner, toy_tasks[0].train)
    shares = learner.attached.parts["attention"](summaries).exp().mean(0)
    assert torch.allclose(shares, means["third"], atol=1e-6)  # the same rows, in another order
    blocks = learner.attached.parts["attention"]
    assert torch.equal(blocks.past_keys, method.keys)
    with torch.no_grad():
        blocks.past_keys[0] = blocks.past_keys[1] = blocks.key
        assert torch.allclose(blocks(summaries).exp(), torch.full((24, 3), 1 / 3))


def test_equal_keys_average_the_blocks_and_equal_blocks_hide_the_attention(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, toy_tasks, method)
    batch, name = one_batch(learner, toy_tasks[0]), "decoder.block.0.layer.1.EncDecAttention.k"
    layer, x = learner.attached.blocks.layers[name], drawn((6, 5, 32), 0)
    learner.model.eval()
    views, attention = learner.weights.views(learner.weights.data), learner.attached.parts["attention"]
    new = [views[f"{name}.lora_{letter}.default.weight"] for letter in "AB"]
    old = [part.clone() for part in layer.lora_variant["default"].past]
    shared = attention.past_keys.clone()

    def contribution():
        logits(learner, batch)
        with torch.no_grad():
            return (layer(x) - layer.base_layer(x)) / layer.scaling["default"]

    attention.past_keys[0] = attention.key.detach()
    expected = (x @ old[0].T @ old[1].T + x @ new[0].T @ new[1].T) / 2
    assert torch.allclose(contribution(), expected, atol=1e-5)
    attention.past_keys.copy_(shared)
    for trained, frozen in zip(new, old, strict=True):
        trained.copy_(frozen)
    assert not torch.allclose(attend(learner, batch), torch.full((6, 2), 0.5), atol=1e-3)
    assert torch.allclose(contribution(), x @ old[0].T @ old[1].T, atol=1e-5)


def test_frozen_blocks_and_keys_stay_and_g_moves(make_learner, toy_tasks):
    method = SAPT(memory_ratio=0.25, reflection=5.0)
    learner, _ = learn(make_learner, toy_tasks, method, weight_decay=0.5)
    past, keys = {key: tensor.clone() for key, tensor in method.past.items()}, method.keys.clone()
    means = {name: mean.clone() for name, mean in method.means.items()}
    embeddings = learner.model.get_input_embeddings().weight.clone()
    projection = learner.attached.parts["attention"].up.weight.clone()
    last_key = learner.attached.parts["attention"].key.detach().clone()
    learner.begin_task(2, three(toy_tasks)[2])
    report = method.learn_task(learner, three(toy_tasks)[2])
    assert report["reflection"] > 0
    assert report["reflected_tasks"] == 2
    for key, tensor in past.items():
        assert torch.equal(method.past[key].narrow(1 if key[0] == "A" else 2, 0, 2), tensor)
    assert torch.equal(method.keys, torch.stack([*keys, last_key]))
    assert all(torch.equal(method.means[name], mean) for name, mean in means.items())
    assert torch.equal(learner.model.get_input_embeddings().weight, embeddings)
    assert not torch.equal(learner.attached.parts["attention"].up.weight, projection)


def test_the_reflection_holds_the_attention_of_old_inputs(make_learner, toy_tasks):
    """Without it, nothing keeps old inputs off the new block."""
    shares = {}
    for strength in (0.0, 50.0):
        learner, _ = learn(make_learner, toy_tasks, SAPT(reflection=strength, memory_ratio=0.5), epochs=8)
        shares[strength] = learner.attached.parts["attention"](summaries_of(learner, toy_tasks[0].train)).exp().mean(0)
    assert shares[50.0][0] > 0.9
    assert shares[50.0][0] > shares[0.0][0]


def test_an_answer_does_not_depend_on_its_neighbours(make_learner, toy_tasks):
    learner, _ = learn(make_learner, toy_tasks, SAPT(memory_ratio=0.25), max_answer=8, lora_targets="q,v")
    learner.weights.data.add_(drawn(len(learner.weights), 0) / 3)
    examples = toy_tasks[1].test + toy_tasks[0].test
    together = learner.answer(examples)
    assert len(set(together)) > 1
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]
    learner.attached.parts["attention"].past_keys.mul_(-20)
    assert learner.answer(examples) != together  # attended, not merged


def test_every_decoding_step_has_the_attention_of_training(make_learner, toy_tasks):
    learner, _ = learn(make_learner, toy_tasks, SAPT(memory_ratio=0.25))
    learner.weights.data.add_(drawn(len(learner.weights), 0) / 10)
    batch = one_batch(learner, toy_tasks[0])
    asked = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        tokens = learner.model.generate(**asked, max_new_tokens=6, min_new_tokens=6, do_sample=False)
        scores = learner.model(**asked, decoder_input_ids=tokens[:, :-1]).logits
    scores[:, :, 1] = float("-inf")  # the end, which was not allowed
    assert torch.equal(scores.argmax(-1), tokens[:, 1:])


def test_the_loss_at_other_weights_uses_their_attention(make_learner, toy_tasks):
    learner, _ = learn(make_learner, toy_tasks, SAPT(memory_ratio=0.25))
    batch = one_batch(learner, toy_tasks[0])
    point = learner.weights.data + drawn(len(learner.weights), 3) / 50
    elsewhere = learner.loss(batch, point).item()
    learner.weights.assign(point)
    assert learner.loss(batch).item() == pytest.approx(elsewhere, rel=1e-6)


def test_the_saved_folder_and_the_state_give_the_same_answers(make_learner, toy_tasks, tmp_path):
    method = SAPT(memory_ratio=0.25)
    learner, _ = learn(make_learner, three(toy_tasks), method)
    batch = one_batch(learner, toy_tasks[0])
    expected = logits(learner, batch)
    learner.attached.save(tmp_path)
    other = SAPT()
    restore_state(other, state_of(method))
    again = make_learner(other.attach, lora_targets="all-linear", seed=7)
    assert not torch.equal(logits(again, batch), expected)
    again.attached.load(tmp_path)
    assert torch.equal(logits(again, batch), expected)


def test_a_generator_writes_inputs_and_leaves_the_learner_as_it_was(make_learner, toy_tasks):
    rows = tuple(replace(row, head="Good?\n", passage="fine day") for row in toy_tasks[0].train)
    task = replace(toy_tasks[0], train=rows)
    found = []
    for steps in (3, 300):
        method = SAPT(pseudo="generator", memory_ratio=0.5, generator_steps=steps, generator_rate=3e-2)
        learner = make_learner(method.attach, lora_rank=8, lora_targets="all-linear", warmup_steps=0)
        batch = one_batch(learner, task)
        before, weights = logits(learner, batch), learner.weights.copy()
        made = method.generate(learner, task)
        assert 6 < len(made) <= 12
        assert len(set(made)) > 1  # drawn, not greedy
        assert {(row.head, row.target, row.tail) for row in made} == {("", "", rows[0].tail)}
        assert torch.equal(learner.weights.data, weights)
        assert torch.equal(logits(learner, batch), before)
        assert learner.cost.replayed_rows == 0
        assert learner.cost.backward_batches == steps
        found.append(sum("fine" in row.passage for row in made))
    assert found[1] > found[0] + 2


def test_a_detached_learner_leaves_no_hook(make_learner, toy_tasks):
    learner, _ = learn(make_learner, toy_tasks[:1], SAPT())
    encoder = learner.model.get_encoder()
    assert encoder._forward_pre_hooks
    make_learner(add_lora)
    assert not encoder._forward_pre_hooks


def test_the_reflection_enters_once_a_step_whatever_the_micro_batches(make_learner, toy_tasks):
    ends = []
    for size in (None, 2):
        method = SAPT(memory_ratio=0.25, reflection=2.0)
        learner, reports = learn(make_learner, toy_tasks, method, lora_dropout=0.0, micro_batch=size)
        ends.append((reports[1]["reflection"], learner.weights.copy()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-3)
