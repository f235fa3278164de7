"""MoELoRA: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch

from clbench.encoding.batches import Batch
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone
from clbench.plugins.moelora import MoELoRA, Router, load_balance
from clbench.settings import Settings
from tests.conftest import TINY, add_lora
from tests.model.test_lora_blocks import logits, one_batch


def drawn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixture(make_learner, experts=3, **settings):
    """A method and its learner, all-linear, so that layers are not square."""
    options = {
        name: settings.pop(name) for name in ("top_k", "rank_mode", "router_start", "load_balance") if name in settings
    }
    method = MoELoRA(experts=experts, **options)
    return method, make_learner(method.attach, **{"lora_targets": "all-linear", **settings})


def views(learner):
    return learner.weights.views(learner.weights.data)


def fill(learner, seed=0):
    """Give all A and B random values; leave the routers."""
    for number, (name, view) in enumerate(views(learner).items()):
        if "lora_" in name:
            view.copy_(drawn(view.shape, seed + number) / 20)


def test_at_the_start_it_is_the_base_model_and_experts_differ(make_learner, toy_tasks):
    _, learner = mixture(make_learner)
    batch = one_batch(learner, toy_tasks[0])
    started = logits(learner, batch)
    downs = next(view for name, view in views(learner).items() if "lora_A" in name)
    assert not torch.equal(downs[:2], downs[2:4])
    learner.attached.detach()
    assert torch.equal(started, logits(learner, batch))


def test_the_router_gives_probabilities():
    torch.manual_seed(0)
    x = drawn((2, 5, 8), 0)
    dense = Router([8], 4)(0, x)
    assert dense.shape == (2, 5, 4)
    assert torch.allclose(dense.sum(-1), torch.ones(2, 5))
    assert (dense > 0).all()
    router = Router([8], 4, top_k=2)
    sparse = router(0, x)
    assert ((sparse > 0).sum(-1) == 2).all()
    assert torch.allclose(sparse.sum(-1), torch.ones(2, 5))
    scores = router.layers[0](x)
    assert torch.equal((sparse > 0).nonzero(), (scores >= scores.topk(2).values[..., 1:]).nonzero())


def test_one_expert_is_plain_lora(make_learner, toy_tasks):
    """The function and the gradient, dropout included; the router gets none."""
    found = []
    for attach in (add_lora, MoELoRA(experts=1).attach):
        learner = make_learner(attach, lora_targets="all-linear", lora_dropout=0.3)
        start = {name: view.clone() for name, view in views(learner).items() if "lora_" in name}
        fill(learner)
        batch = one_batch(learner, toy_tasks[0])
        learner.passes.train_mode()
        torch.manual_seed(0)
        learner.passes.backward(learner.loss(batch))
        gradients = learner.weights.views(learner.weights.grad)
        found.append((start, logits(learner, batch), {name: gradients[name].clone() for name in start}))
    assert not any(view.any() for name, view in gradients.items() if name.startswith("router"))
    (start, output, gradients), (other_start, other_output, other_gradients) = found
    assert torch.equal(output, other_output)
    for name in start:
        assert torch.equal(start[name], other_start[name])
        assert torch.equal(gradients[name], other_gradients[name])


def test_equal_experts_are_one_lora_whatever_the_router(make_learner, toy_tasks):
    _, learner = mixture(make_learner, lora_rank=2)
    fill(learner)
    for name, view in views(learner).items():
        if "lora_A" in name:
            view.copy_(view[:2].repeat(3, 1))
        elif "lora_B" in name:
            view.copy_(view[:, :2].repeat(1, 3))
    kept = {name: view.clone() for name, view in views(learner).items()}
    batch = one_batch(learner, toy_tasks[0])
    routed = logits(learner, batch)
    plain = make_learner(lora_targets="all-linear", lora_rank=2)
    for name, view in views(plain).items():
        view.copy_(kept[name][:2] if "lora_A" in name else kept[name][:, :2])
    assert torch.allclose(routed, logits(plain, batch), atol=1e-5)


@pytest.mark.parametrize("rank_mode", ["per_expert", "split"])
def test_a_zero_router_averages_the_experts_at_the_settings_scaling(make_learner, rank_mode):
    """s = alpha / rank of the settings, whichever way the rank is meant."""
    settings = {"lora_rank": 6, "lora_alpha": 12.0, "rank_mode": rank_mode, "router_start": "zero"}
    _, learner = mixture(make_learner, **settings)
    fill(learner)
    rank = 2 if rank_mode == "split" else 6
    for name, layer in learner.attached.blocks.layers.items():
        layer.eval()
        down, up = (views(learner)[f"{name}.lora_{letter}.default.weight"] for letter in "AB")
        assert down.shape == (3 * rank, layer.in_features)
        x = drawn((2, 4, layer.in_features), 1)
        experts = [x @ down[i : i + rank].T @ up[:, i : i + rank].T for i in range(0, 3 * rank, rank)]
        assert torch.allclose(layer(x), layer.base_layer(x) + 2.0 * sum(experts) / 3, atol=1e-5)


def test_the_load_balance_is_1_if_even_and_the_number_of_experts_if_collapsed():
    mask = torch.ones(2, 6, dtype=torch.bool)
    even = torch.eye(4)[torch.arange(12).view(2, 6) % 4]
    assert load_balance(torch.full((2, 6, 4), 0.25), even.bool(), mask).item() == pytest.approx(1, abs=1e-6)
    one = torch.eye(4)[torch.zeros(2, 6, dtype=torch.long)]
    assert load_balance(one, one.bool(), mask).item() == pytest.approx(4, abs=1e-6)
    two = torch.eye(4)[torch.arange(12).view(2, 6) % 4] + torch.eye(4)[(torch.arange(12).view(2, 6) + 1) % 4]
    assert load_balance(two / 2, two.bool(), mask).item() == pytest.approx(1, abs=1e-6)  # top 2: f still sums to 1
    mask[:, 3:] = False  # collapsed padding does not count
    mixed = torch.cat([torch.full((2, 3, 3), 1 / 3), torch.eye(3)[torch.zeros(2, 3, dtype=torch.long)]], 1)
    sent = torch.cat([torch.eye(3).expand(2, 3, 3), torch.eye(3)[torch.zeros(2, 3, dtype=torch.long)]], 1)
    assert load_balance(mixed, sent.bool(), mask).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_balanced_loss_ignores_padding(make_learner, toy_tasks, top_k):
    method, learner = mixture(make_learner, load_balance=10.0, top_k=top_k)
    fill(learner)
    batch = one_batch(learner, toy_tasks[0])
    wide = Batch(
        torch.nn.functional.pad(batch.input_ids, (0, 7)),
        torch.nn.functional.pad(batch.attention_mask, (0, 7)),
        torch.nn.functional.pad(batch.labels, (0, 3), value=-100),
    )
    same_length = batch.input_ids.shape[1] - batch.labels.shape[1]
    square = replace(batch, labels=torch.nn.functional.pad(batch.labels, (0, same_length), value=-100))
    losses = [method.balanced_loss(learner, b).item() for b in (batch, wide, square)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert losses[0] - learner.loss(batch).item() >= 10 * 0.999  # the mean over layers is near 1 or above


def test_the_load_balance_moves_the_routers(make_learner, toy_tasks):
    method, learner = mixture(make_learner, load_balance=0.01)
    batch = one_batch(learner, toy_tasks[0])
    for balanced in (False, True):
        learner.weights.zero_grad()
        learner.passes.backward(method.balanced_loss(learner, batch) if balanced else learner.loss(batch))
        moved = {
            kind: any(g.any() for name, g in learner.weights.views(learner.weights.grad).items() if kind in name)
            for kind in ("router", "lora_A", "lora_B")
        }
        assert moved == {"router": balanced, "lora_A": False, "lora_B": True}  # with B = 0 only B moves first


def test_every_experts_b_changes_on_every_task_and_sizes_are_those_of_the_formula(make_learner, toy_tasks):
    method = MoELoRA()
    learner = make_learner(method.attach, stream_length=5, lora_rank=2)
    layers, width = len(learner.attached.blocks.layers), 32
    assert len(learner.weights) == layers * 5 * (2 * 2 * width + width)
    for index, task in enumerate(toy_tasks):
        before = learner.weights.copy()
        learner.begin_task(index, task)
        method.learn_task(learner, task)
        changed = learner.weights.views(learner.weights.data - before)
        for name, view in changed.items():
            if "lora_B" in name:
                assert view.unflatten(1, (5, 2)).abs().amax((0, 2)).min() > 0


def test_the_router_sees_its_input_without_dropout(make_learner):
    _, learner = mixture(make_learner, lora_dropout=0.9)
    seen = []
    inner = learner.attached.blocks.gate
    learner.attached.blocks.gate = lambda number, x: seen.append(x) or inner(number, x)
    layer = next(iter(learner.attached.blocks.layers.values()))
    layer.train()
    x = drawn((2, 3, layer.in_features), 0)
    layer(x)
    assert torch.equal(seen[0], x)


def test_on_a_bfloat16_backbone_routing_is_in_float32(tiny_folder, toy_tasks):
    learner = Learner(load_backbone(str(tiny_folder), "cpu", "bfloat16"), Settings(**TINY))
    MoELoRA(experts=3).attach(learner)
    fill(learner)
    seen, inner = [], learner.attached.blocks.gate
    learner.attached.blocks.gate = lambda number, x: seen.append(inner(number, x)) or seen[-1]
    batch = one_batch(learner, toy_tasks[0])
    learner.passes.backward(learner.loss(batch))
    assert learner.model.dtype == torch.bfloat16
    assert {weights.dtype for weights in seen} == {torch.float32}
    assert max((weights.detach().sum(-1) - 1).abs().max().item() for weights in seen) < 1e-6
    assert learner.weights.grad.dtype == torch.float32
    assert torch.isfinite(learner.weights.grad).all()
    assert logits(learner, batch).dtype == torch.bfloat16


def test_an_answer_does_not_depend_on_its_neighbours(make_learner, toy_tasks):
    _, learner = mixture(make_learner, max_answer=8)
    learner.weights.data.add_(drawn(len(learner.weights), 0) / 6)
    examples = toy_tasks[1].test + toy_tasks[0].test
    together = learner.answer(examples)
    assert len(set(together)) > 1
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]
    for layer in learner.attached.parts["router"].layers:
        layer.weight.data.mul_(-20)
    assert learner.answer(examples) != together  # routed, not merged


def test_the_loss_at_other_weights_uses_their_routers(make_learner, toy_tasks):
    _, learner = mixture(make_learner)
    fill(learner)
    batch = one_batch(learner, toy_tasks[0])
    point = learner.weights.copy()
    point.add_(drawn(len(point), 3) / 10)
    elsewhere = learner.loss(batch, point).item()
    learner.weights.assign(point)
    assert learner.loss(batch).item() == pytest.approx(elsewhere, rel=1e-6)


def test_experts_and_routers_reload_to_the_same_answers(make_learner, toy_tasks, tmp_path):
    _, learner = mixture(make_learner, top_k=2)
    learner.weights.data.add_(drawn(len(learner.weights), 0) / 10)
    batch = one_batch(learner, toy_tasks[0])
    expected = logits(learner, batch)
    learner.attached.save(tmp_path)
    _, again = mixture(make_learner, top_k=2, seed=5)
    assert not torch.equal(logits(again, batch), expected)
    again.attached.load(tmp_path)
    assert torch.equal(logits(again, batch), expected)


def test_micro_batches_take_the_same_steps(make_learner, toy_tasks):
    ends = []
    for size in (None, 3):
        method, learner = mixture(make_learner, lora_dropout=0.0, micro_batch=size)
        method.learn_task(learner, toy_tasks[0])
        ends.append(learner.weights.copy())
    assert torch.allclose(*ends, atol=1e-4)


def test_impossible_mixtures_are_refused(make_learner):
    for options, fault in (
        ({"top_k": 3, "experts": 2}, "there are 2 experts"),
        ({"rank_mode": "split", "experts": 3}, "by 3"),
    ):
        with pytest.raises(ClbenchError, match=fault):
            make_learner(MoELoRA(**options).attach)
