"""LoRA in rank blocks: the frozen ones, the gates, and the PEFT adapter that they are exported as."""

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from transformers import T5ForConditionalGeneration

from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone, merged
from clbench.settings import Settings
from tests.conftest import add_lora, as_peft_computes


def all_linear(make_learner, attach=lambda learner: learner.attached.add_blocks({}), **settings):
    """A learner with layers that are not square: 32 -> 48, 48 -> 32, 32 -> 32."""
    return make_learner(attach, lora_targets="all-linear", **settings)


def fill(weights, seed):
    weights.assign(torch.randn(len(weights), generator=torch.Generator().manual_seed(seed)) / 20)


def stacked(learner, tasks):
    """Give the learner `tasks` blocks of random weights; return each block's weights by parameter."""
    made = []
    for number in range(tasks):
        if number:
            learner.attached.blocks.freeze(learner.weights, torch.Generator().manual_seed(number))
        fill(learner.weights, number)
        made.append({name: view.clone() for name, view in learner.weights.views(learner.weights.data).items()})
    return made


def one_batch(learner, task):
    (batch,) = learner.feed.once(task.train[:6])
    return batch


def logits(learner, batch):
    learner.model.eval()
    with torch.no_grad():
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        return learner.model(**inputs).logits


def test_a_fresh_block_changes_nothing_and_starts_as_peft_starts(make_learner, toy_tasks):
    learner = all_linear(make_learner)
    batch = one_batch(learner, toy_tasks[0])
    fill(learner.weights, 0)
    before, old = logits(learner, batch), learner.weights.copy()
    learner.attached.blocks.freeze(learner.weights, torch.Generator().manual_seed(1))
    assert torch.allclose(logits(learner, batch), before, atol=1e-5)  # sums are taken in another order
    positions = learner.attached.blocks.positions(learner.weights)
    assert positions.keys() == {"A 32", "A 48", "B 32", "B 48"}
    assert torch.equal(
        torch.cat([index.flatten() for index in positions.values()]).sort().values, torch.arange(len(old))
    )
    for key, index in positions.items():
        fresh, frozen = learner.weights.data[index], learner.attached.blocks.past[key]
        assert torch.equal(frozen, old[index])
        if key[0] == "B":
            assert not fresh.any()
        else:
            bound = int(key[2:]) ** -0.5
            assert 0.9 * bound < fresh.abs().max() <= bound
            assert not torch.equal(fresh[0], fresh[1])
    for seed in (1, 2):  # the function stays when there is a stack already
        fill(learner.weights, seed)
        before = logits(learner, batch)
        learner.attached.blocks.freeze(learner.weights, torch.Generator().manual_seed(seed))
        assert torch.allclose(logits(learner, batch), before, atol=1e-5)


def test_the_blocks_are_the_sum_of_one_branch_a_task_with_the_scaling_of_one_rank(make_learner, toy_tasks):
    learner = all_linear(make_learner, lora_rank=2, lora_alpha=8.0)
    blocks = stacked(learner, 3)
    for name, layer in learner.attached.blocks.layers.items():
        x = torch.randn(2, 3, layer.in_features)
        layer.eval()
        pairs = [[b[f"{name}.lora_{letter}.default.weight"] for letter in "AB"] for b in blocks]
        expected = layer.base_layer(x) + sum(4.0 * x @ down.T @ up.T for down, up in pairs)
        assert torch.allclose(layer(x), expected, atol=1e-4)
    shapes = {layer.base_layer.weight.shape for layer in learner.attached.blocks.layers.values()}
    assert len(shapes) == 3


def test_all_blocks_see_one_dropout_mask(make_learner):
    learner = all_linear(make_learner, lora_dropout=0.5)
    block = stacked(learner, 2)[0]
    layer_name, layer = next(iter(learner.attached.blocks.layers.items()))
    with torch.no_grad():
        for letter in "AB":  # the trainable block undoes the frozen one, unless their masks differ
            view = learner.weights.views(learner.weights.data)[f"{layer_name}.lora_{letter}.default.weight"]
            view.copy_(block[f"{layer_name}.lora_{letter}.default.weight"] * (-1 if letter == "B" else 1))
        layer.train()
        x = torch.randn(2, 5, layer.in_features)
        assert torch.allclose(layer(x), layer.base_layer(x), atol=1e-5)


def test_merging_folds_all_blocks_and_restores_the_very_same_tensors(make_learner, toy_tasks):
    learner = all_linear(make_learner)
    stacked(learner, 3)
    batch = one_batch(learner, toy_tasks[0])
    originals = [
        (layer.base_layer.weight, layer.base_layer.weight.data.clone())
        for layer in learner.attached.blocks.layers.values()
    ]
    apart = logits(learner, batch)
    with merged(learner.model):
        assert torch.allclose(logits(learner, batch), apart, atol=1e-4)
        assert not torch.equal(originals[0][0].data, originals[0][1])
    assert torch.equal(logits(learner, batch), apart)
    for layer, (parameter, values) in zip(learner.attached.blocks.layers.values(), originals, strict=True):
        assert layer.base_layer.weight is parameter
        assert torch.equal(parameter.data, values)


def test_nothing_but_the_trainable_block_moves(make_learner, toy_tasks):
    learner = all_linear(make_learner, weight_decay=0.1)
    stacked(learner, 3)
    trained = len(learner.weights)
    assert len(all_linear(make_learner).weights) == trained
    learner = all_linear(make_learner, weight_decay=0.1)
    stacked(learner, 3)
    past = {key: tensor.clone() for key, tensor in learner.attached.blocks.past.items()}
    frozen = {name: p.clone() for name, p in learner.model.named_parameters() if not p.requires_grad}
    start = learner.weights.copy()
    training = learner.training(toy_tasks[0].train)
    for batch in training:
        training.step(learner.loss(batch))
    assert all(torch.equal(tensor, past[key]) for key, tensor in learner.attached.blocks.past.items())
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in learner.attached.blocks.past.values())
    for name, parameter in learner.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
            assert parameter.grad is None
    assert not torch.equal(learner.weights.data, start)


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_export_is_a_standard_peft_adapter_and_loads_again(make_learner, tiny_folder, toy_tasks, tmp_path, tasks):
    learner = all_linear(make_learner, lora_rank=2, lora_alpha=8.0)
    stacked(learner, tasks)
    batch = one_batch(learner, toy_tasks[0])
    expected, weights, past = logits(learner, batch), learner.weights.copy(), learner.attached.blocks.past
    learner.attached.save(tmp_path)
    fresh = PeftModel.from_pretrained(T5ForConditionalGeneration.from_pretrained(tiny_folder), tmp_path).eval()
    assert fresh.peft_config["default"].r == 2 * tasks
    assert {
        layer.scaling["default"] for layer in fresh.modules() if type(layer).__name__ == "Linear" and "r" in vars(layer)
    } == {4.0}
    with torch.no_grad():
        found = fresh(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).logits
    assert torch.allclose(found, expected, atol=1e-5)
    zeros = {
        key: torch.zeros_like(tensor) for key, tensor in past.items()
    }  # what a method's state says of their shapes
    again = all_linear(make_learner, lambda new: new.attached.add_blocks(zeros), lora_rank=2, lora_alpha=8.0)
    again.attached.load(tmp_path)
    assert torch.equal(again.weights.data, weights)
    assert again.attached.blocks.past.keys() == past.keys()
    assert all(torch.equal(again.attached.blocks.past[key], tensor) for key, tensor in past.items())
    assert torch.equal(logits(again, batch), expected)


def test_gates_weigh_each_block(make_learner):
    learner = all_linear(make_learner, lora_rank=2, lora_alpha=8.0)
    blocks = stacked(learner, 3)
    shares = torch.tensor([[[0.5, 0.2, 0.3]], [[0.0, 1.0, 0.0]]])
    learner.attached.blocks.gate = lambda number, x: shares
    for name, layer in learner.attached.blocks.layers.items():
        layer.eval()
        x = torch.randn(2, 3, layer.in_features)
        pairs = [[b[f"{name}.lora_{letter}.default.weight"] for letter in "AB"] for b in blocks]
        expected = layer.base_layer(x) + sum(
            4.0 * shares[..., i : i + 1] * (x @ a.T @ b.T) for i, (a, b) in enumerate(pairs)
        )
        assert torch.allclose(layer(x), expected, atol=1e-4)


def test_bfloat16_bases_compute_blocks_in_bfloat16_and_give_float32_gradients(tiny_folder):
    learner = Learner(load_backbone(str(tiny_folder), "cpu", "bfloat16"), Settings(lora_dropout=0.0))
    learner.attached.add_blocks({})
    stacked(learner, 2)
    learner.attached.blocks.gate = lambda number, x: torch.tensor([[[0.5, 0.25]]]).to(x)
    layer = next(iter(learner.attached.blocks.layers.values()))
    x = torch.randn(2, 3, layer.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
    output = layer(x)
    assert "LowRankSum" in type(output.grad_fn).__name__
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, Linear.forward(layer, x), rtol=0.05, atol=0.05)
    output.sum().backward()
    assert layer.lora_A["default"].weight.grad.dtype == torch.float32
    assert layer.lora_A["default"].weight.grad.any()


def test_isolated_blocks_have_no_dropout_and_give_their_input_no_gradient(make_learner):
    learner = all_linear(make_learner, lora_dropout=0.9)
    stacked(learner, 2)
    learner.weights.data.zero_()  # only the frozen block is left
    learner.attached.blocks.isolated = True
    layer = next(iter(learner.attached.blocks.layers.values()))
    layer.train()
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    output = layer(x)
    assert torch.equal(output, layer(x))
    output.sum().backward()
    assert torch.allclose(x.grad, layer.base_layer.weight.sum(0).expand_as(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("isolated", [False, True])
def test_fused_blocks_compute_what_blocks_compute_product_by_product(
    make_learner, make_decoder, toy_tasks, kind, dropout, gated, isolated
):
    make, seen = make_decoder if kind == "decoder" else make_learner, []
    for form in ("product by product", "fused", "watched"):
        learner = all_linear(make, lora_rank=2, lora_dropout=dropout)
        stacked(learner, 3)
        if form == "product by product":
            as_peft_computes(learner)
        if form == "watched":
            hook_products(learner)
        learner.attached.blocks.isolated = isolated
        generator = torch.Generator().manual_seed(3)
        sizes = {layer.in_features for layer in learner.attached.blocks.layers.values()}
        routers = {size: torch.randn(3, size, generator=generator).requires_grad_() for size in sorted(sizes)}
        if gated:
            learner.attached.blocks.gate = lambda number, x, routers=routers: (x @ routers[x.shape[-1]].T).softmax(-1)
        learner.passes.train_mode()
        torch.manual_seed(0)
        loss = learner.loss(one_batch(learner, toy_tasks[0]))
        learner.passes.backward(loss)
        assert all((router.grad is not None) == gated for router in routers.values())
        gates = [router.grad for router in routers.values() if gated]
        seen.append([loss, learner.weights.grad.clone(), *gates])
    for found in seen[1:]:
        for theirs, ours in zip(seen[0], found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def hook_products(learner):
    for number, layer in enumerate(learner.attached.blocks.layers.values()):
        (layer.lora_A if number % 2 else layer.lora_B)["default"].register_forward_hook(lambda *_: None)


def test_only_watched_layers_compute_product_by_product(make_learner):
    """Where nobody watches, `BlockLayer.forward` is not called at all."""
    learner = all_linear(make_learner)
    stacked(learner, 2)
    layer = next(iter(learner.attached.blocks.layers.values()))
    layer.lora_variant["default"].forward = None
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    assert "LowRankSum" in type(layer(x).grad_fn).__name__
    hook_products(learner)
    with pytest.raises(TypeError, match="not callable"):
        layer(x)


def test_the_loss_at_other_weights_goes_through_the_blocks(make_learner, toy_tasks):
    learner = all_linear(make_learner)
    stacked(learner, 2)
    batch = one_batch(learner, toy_tasks[0])
    here = learner.loss(batch)
    point = learner.weights.copy()
    learner.weights.data.zero_()
    assert learner.loss(batch, point).item() == pytest.approx(here.item(), rel=1e-6)
    assert learner.loss(batch).item() != pytest.approx(here.item(), rel=1e-4)


def test_a_detached_learner_leaves_the_backbone_to_plain_lora(make_learner, toy_tasks):
    stacked(all_linear(make_learner), 2)
    learner = all_linear(make_learner, add_lora)
    assert learner.attached.adapter.peft_config["default"].r == learner.settings.lora_rank
    before = logits(learner, one_batch(learner, toy_tasks[0]))
    learner = all_linear(make_learner)
    assert torch.equal(logits(learner, one_batch(learner, toy_tasks[0])), before)
