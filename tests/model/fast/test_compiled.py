"""Losses through torch.compile or replayed graphs: the same numbers, and no replay where one would be wrong.

Without a GPU a stand-in takes the place of the capture: it keeps sample arguments and copies into them, as a graph does.
"""

from dataclasses import replace

import pytest
import torch

from clbench.errors import ClbenchWarning
from clbench.learning.learner import Learner
from clbench.model.backbone import merged
from clbench.model.fast import compiled
from clbench.model.fast.compiled import SIGHTINGS, CompiledLoss, CudaCapture, GraphedLoss
from clbench.settings import Settings
from tests.conftest import add_lora
from tests.model.test_lora_blocks import fill


class StandIn:
    """Captures nothing: runs the function again, on the sample arguments; counts what it made."""

    made = 0

    def __call__(self, function, samples):
        self.made += 1
        vector, *kept = samples

        def replay(given, *inputs):
            assert given.data_ptr() == vector.data_ptr(), "a graph reads the very memory that it was captured with"
            for sample, value in zip(kept, inputs, strict=True):
                sample.copy_(value)
            return function(given, *kept)

        return replay


@pytest.fixture
def graphed(make_learner, toy_tasks):
    """A learner, its graphed loss, and a batch whose shape has been seen often enough."""
    learner = make_learner(lora_dropout=0.0)
    graphed = GraphedLoss(learner.model, learner.weights, StandIn())
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    learner.passes.train_mode()
    for _ in range(SIGHTINGS - 1):
        assert graphed(batch) is None, "rare shapes are not worth a graph"
    assert backward(graphed(batch)) is not None
    return learner, graphed, batch


def backward(loss):
    if loss is not None:
        loss.backward()
    return loss


def train(learner, tasks):
    training = learner.training(tasks[0].train)
    for batch in training:
        training.step(learner.loss(batch))
    return learner.weights.copy()


def test_graphs_train_to_the_same_weights(make_learner, toy_tasks):
    plain = train(make_learner(epochs=6, pad_multiple=32), toy_tasks)
    learner = make_learner(epochs=6, pad_multiple=32)
    learner.attached.compiled = GraphedLoss(learner.model, learner.weights, StandIn())
    replayed = train(learner, toy_tasks)
    assert learner.attached.compiled.graphs
    torch.testing.assert_close(replayed, plain, rtol=1e-4, atol=1e-6)


def test_a_graph_is_made_once_for_each_shape_and_mode(graphed, toy_tasks):
    learner, loss, batch = graphed
    longer = learner.feed.batch(toy_tasks[1].train[:3])
    for each in (batch, batch, *[longer] * (SIGHTINGS + 1)):
        backward(loss(each))
    assert loss._capture.made == len(loss.graphs) == 2
    learner.model.eval()
    assert loss(batch) is None


def test_a_replay_computes_with_the_batch_that_it_is_given(graphed):
    learner, loss, batch = graphed
    other = replace(batch, input_ids=batch.input_ids.flip(0), attention_mask=batch.attention_mask.flip(0))
    graphs = dict(loss.graphs)
    replayed = backward(loss(other))
    torch.testing.assert_close(replayed, learner.loss(other))
    assert abs(replayed.item() - learner.loss(batch).item()) > 1e-4, "the questions have other answers now"
    assert loss.graphs == graphs


def test_nothing_is_replayed_while_a_gradient_is_to_come(graphed):
    _, loss, batch = graphed
    first = loss(batch)
    assert loss(batch) is None
    first.backward()
    assert backward(loss(batch)) is not None
    dropped = loss(batch)
    del dropped
    assert loss(batch) is not None


def test_a_gradient_from_overwritten_activations_is_refused(graphed):
    _, loss, batch = graphed
    first = loss(batch)
    first.backward(retain_graph=True)
    loss(batch).backward()
    with pytest.raises(RuntimeError, match="use --compile none"):
        first.backward()


def test_nothing_is_replayed_where_the_pass_is_not_the_captured_one(graphed):
    learner, loss, batch = graphed
    with torch.no_grad():
        assert loss(batch) is None
    handle = learner.model.get_encoder().register_forward_hook(lambda *_: None)
    assert loss(batch) is None
    handle.remove()
    with merged(learner.model):
        assert loss(batch) is None
    with learner.attached.adapter.disable_adapter():
        assert loss(batch) is None
    assert loss(batch) is not None


def test_what_cannot_be_captured_runs_without(make_learner, toy_tasks):
    def fail(function, samples):
        raise RuntimeError("operation not permitted when stream is capturing")

    learner = make_learner()
    loss, batch = GraphedLoss(learner.model, learner.weights, fail), learner.feed.batch(toy_tasks[0].train[:4])
    for _ in range(SIGHTINGS - 1):
        loss(batch)
    with pytest.warns(UserWarning, match="going on without"):
        assert loss(batch) is None
    assert loss(batch) is None


def gated_blocks(learner):
    blocks = learner.attached.add_blocks({})
    fill(learner.weights, 0)
    blocks.freeze(learner.weights, torch.Generator().manual_seed(0))
    fill(learner.weights, 1)
    blocks.gate = lambda number, x: x[..., :2].softmax(-1)


@pytest.mark.compiler
@pytest.mark.parametrize("attach", [add_lora, gated_blocks])
def test_torch_compile_gives_the_same_loss_and_gradient_and_sees_new_hooks(make_learner, toy_tasks, attach):
    learner, seen = make_learner(attach, lora_dropout=0.0), []
    learner.passes.train_mode()
    compiled = CompiledLoss(learner.model, backend="eager")
    batch, pairs = learner.feed.batch(toy_tasks[1].train[:3]), []
    for loss in (compiled(batch), learner.loss(batch)):
        learner.weights.zero_grad()
        loss.backward()
        pairs.append((loss.detach(), learner.weights.grad.clone()))
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-6)
    layer = next(part for name, part in learner.model.named_modules() if name.endswith("lora_A.default"))
    handle = layer.register_forward_hook(lambda *words: seen.append(words[-1].shape))
    compiled(batch)
    handle.remove()
    assert len(seen) == 1


@pytest.mark.compiler
def test_every_learner_of_a_process_is_compiled(make_learner, toy_tasks):
    """torch.compile gives up on a function that it has compiled too often; the runs of a suite have a learner each."""
    batch = make_learner().feed.batch(toy_tasks[0].train[:2])
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        losses = [CompiledLoss(make_learner().model, backend="eager")(batch).item() for _ in range(3)]
    assert len(set(losses)) == 1


def test_padding_to_a_multiple_changes_no_loss(make_learner, toy_tasks):
    losses, shapes = [], []
    for multiple in (None, 32):
        learner = make_learner(pad_multiple=multiple, micro_batch=3)
        learner.model.eval()
        (batches,) = [next(iter(learner.training(toy_tasks[0].train[:6]).groups()))]
        learner.model.eval()
        losses.append(torch.stack([learner.loss(replace(batch)) for batch in batches]))
        shapes.append([(*batch.input_ids.shape[1:], *batch.labels.shape[1:]) for batch in batches])
    torch.testing.assert_close(*losses)
    assert all(length % 32 == 0 and target % 8 == 0 for length, target in shapes[1])
    assert shapes[0] != shapes[1]


def test_graphs_need_a_gpu_and_no_checkpointing(backbone, clbench, tiny_run):
    result = clbench(
        *tiny_run, "--stream", "sst-2", "--method", "seqlora", "--device", "cpu", "--compile", "cudagraphs"
    )
    assert result.exit_code == 2
    assert "error: --compile cudagraphs needs a CUDA device, this one is 'cpu'; use none or default" in result.output
    assert Settings(compile="cudagraphs").padding == 32
    assert Settings().padding == 1
    assert Settings(compile="default").recipe == Settings().recipe


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_graphs_train_to_the_same_weights(backbone, toy_tasks):
    on_gpu = replace_device(backbone)
    found = []
    for kind in ("none", "cudagraphs"):
        learner = Learner(on_gpu, Settings(max_input=96, max_target=8, epochs=6, compile=kind, pad_multiple=32))
        learner.attached.add_lora()
        learner.begin_task(0)
        found.append(train(learner, toy_tasks))
        if kind == "cudagraphs":
            assert isinstance(learner.attached.compiled._capture, CudaCapture)
            assert learner.attached.compiled.graphs
        learner.attached.detach()
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def replace_device(backbone):
    return replace(backbone, model=backbone.model.cuda(), device=torch.device("cuda"))


def test_what_torch_compile_does_first_is_said(monkeypatch, make_learner):
    monkeypatch.setattr(compiled, "CompiledLoss", lambda model: "compiled")  # what is said before it begins
    with pytest.warns(
        ClbenchWarning, match="--compile default: a run's first steps wait for the compiler, for minutes"
    ):
        learner = make_learner(compile="default")
    assert learner.attached.compiled == "compiled"
