"""What the rows of a training batch begin with is computed once, where nobody notices: the loss and gradient are the same."""

from dataclasses import replace

import pytest
import torch

from clbench.learning.per_example_gradients import SampleSquares
from clbench.model import decoder
from tests.answering.test_opening import Passes
from tests.model.test_decoder import DECODERS, add_something, new_decoder


def gradient(learner, batch, weights=None):
    """Return the loss and its gradient, and the rows and tokens of every pass."""
    learner.weights.zero_grad()
    with Passes(learner.model) as passes:
        learner.attached.hooks.clear()
        loss = learner.loss(batch, weights)
    loss.backward()
    return loss.item(), learner.weights.grad.clone() if weights is None else weights.grad, passes


@pytest.mark.parametrize("given", [False, True], ids=["own weights", "given weights"])
@pytest.mark.parametrize("what", ["lora", "blocks"])
@pytest.mark.parametrize("kind", DECODERS)
def test_loss_and_gradient_are_those_of_whole_rows(kind, what, given, llama, toy_tasks, monkeypatch):
    learner = new_decoder(kind, llama, dtype=torch.float32)
    add_something(learner, what)
    noise = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0))
    learner.weights.data.add_(noise, alpha=0.3)
    batch = learner.feed.batch(toy_tasks[1].train[:5])
    assert batch.attention_mask.min() == 0
    found = []
    monkeypatch.setattr("clbench.model.attached.has_hooks", lambda part: False)  # `Passes` looks on
    for few in (10**6, 16):
        monkeypatch.setattr(decoder, "FEW", few)
        weights = learner.weights.data.clone().requires_grad_() if given else None
        found.append(gradient(learner, batch, weights))
    (loss, whole, passes), (shared_loss, shared, shared_passes) = found
    assert shared_loss == pytest.approx(loss, rel=1e-5)
    assert torch.linalg.vector_norm(shared - whole) < 1e-5 * torch.linalg.vector_norm(whole)
    (rows, tokens), (one, length) = passes[0], shared_passes[0]
    assert (rows, one, len(passes)) == (5, 1, 1)
    assert shared_passes[1:] == [(5, tokens - length)]
    encoded = learner.feed.encoder.encode(toy_tasks[1].train[:5])
    assert len({tuple(row.input_ids[:length]) for row in encoded}) == 1
    assert len({tuple(row.input_ids[: length + 1]) for row in encoded}) > 1


def test_something_is_left_of_every_prompt(make_decoder, toy_tasks):
    """Rows that are the same but for their answers."""
    learner = make_decoder(lora_dropout=0.0)
    rows = [replace(toy_tasks[1].train[0], target=label) for label in ("World", "Science or Technology")]
    together = learner.loss(learner.feed.batch(rows))
    counts = [len(row.labels) for row in learner.feed.encoder.encode(rows)]
    alone = [learner.loss(learner.feed.batch([row])) * count for row, count in zip(rows, counts, strict=True)]
    assert together.item() == pytest.approx(sum(alone).item() / sum(counts), rel=1e-5)


def test_one_row_is_read_as_it_is(make_decoder, toy_tasks):
    learner = make_decoder(lora_dropout=0.0)
    with Passes(learner.model) as passes:
        learner.model(**inputs(learner.feed.batch(toy_tasks[0].train[:1])), together=True)
    assert len(passes) == 1


def inputs(batch):
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}


@pytest.mark.parametrize("change", ["nothing", "dropout", "attention dropout", "a hook", "own hook", "gate", "squares"])
def test_who_would_notice(change, make_decoder, toy_tasks):
    learner = make_decoder(lora_dropout=0.1 if change == "dropout" else 0.0)
    learner.passes.train_mode()
    if change == "attention dropout":
        learner.model.config.attention_dropout = 0.1
    elif change == "a hook":
        learner.model.base_model.layers[0].mlp.register_forward_hook(lambda *_: None)
    elif change == "own hook":
        learner.attached.hooks.append(learner.model.register_forward_hook(lambda *_: None))
    elif change == "gate":
        learner.attached.detach()
        learner.attached.add_blocks({}, 2).gate = lambda number, x: torch.ones(len(x), 1, 2)
    elif change == "squares":
        SampleSquares(learner.model, learner.weights).__enter__()
    alike = learner.attached.treats_rows_alike()
    for part in learner.model.modules():
        if part not in (learner.model, learner.model.get_output_embeddings()):
            part._forward_hooks.clear()
    learner.model.config.attention_dropout = 0.0
    assert alike == (change == "nothing")


def test_an_encoder_decoder_reads_whole_rows(make_learner):
    assert not make_learner(lora_dropout=0.0).attached.treats_rows_alike()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_that_are_computed_again_are_those_of_whole_rows(checkpointing, make_decoder, toy_tasks):
    learner, rows = make_decoder(lora_dropout=0.0, gradient_checkpointing=checkpointing), []
    learner.passes.train_mode()
    norm = learner.model.base_model.norm
    own = norm.forward
    norm.forward = lambda states: rows.append(len(states)) or own(states)
    try:
        learner.loss(learner.feed.batch(toy_tasks[1].train[:5]))
    finally:
        norm.forward = own
    assert rows == ([5] if checkpointing else [1, 5])
