"""A beginning that all questions share is read once, and the answers are those of questions read one by one."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, Gemma3TextConfig

from clbench.answering import opening
from clbench.answering.opening import Opening
from clbench.encoding.encoder import Encoded
from clbench.model.decoder import is_shareable
from tests.model.test_decoder import DECODERS, add_something, new_decoder

BEGINNING = 20


class Passes:
    """Within a `with` block, notes rows and tokens of every pass of a model."""

    def __init__(self, model):
        self.shapes, self._handle = [], model.base_model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, part, arguments, named):
        given = [*arguments, named.get("input_ids"), named.get("inputs_embeds")]
        self.shapes.append(next(tuple(read.shape[:2]) for read in given if read is not None))

    def __enter__(self):
        return self.shapes

    def __exit__(self, *_):
        self._handle.remove()


@pytest.fixture
def questions(toy_tasks):
    """Questions of one task, of several lengths."""
    return [
        replace(row, passage=" ".join([row.passage] * (1 + number % 3))) for number, row in enumerate(toy_tasks[1].test)
    ]


def answering(kind, llama):
    """Return a decoder whose answers depend on the question."""
    learner = new_decoder(kind, llama, dtype=torch.float32)
    add_something(learner, "lora")
    noise = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0))
    learner.weights.data.add_(noise, alpha=1.0)
    return learner


@pytest.mark.parametrize("way", ["generate", "labels"])
@pytest.mark.parametrize("kind", DECODERS)
def test_answers_are_those_of_questions_that_share_nothing(kind, way, llama, questions, toy_tasks, monkeypatch):
    monkeypatch.setitem(
        DECODERS, "gemma3_text", Gemma3TextConfig(num_attention_heads=4, head_dim=8, sliding_window=512)
    )
    learner = answering(kind, llama)
    with learner.asker.asking(way), Passes(learner.model) as shared:
        found = learner.answer(questions, toy_tasks[1].labels)
    monkeypatch.setattr(opening, "FEW", 10**6)
    with learner.asker.asking(way), Passes(learner.model) as whole:
        expected = learner.answer(questions, toy_tasks[1].labels)
    assert found == expected
    assert len(set(expected)) > 1
    rows, length = shared[0]
    encoded = learner.feed.encoder.encode(questions)
    ids = [row.input_ids[:length] for row in encoded]
    assert rows == 1
    assert all(row == ids[0] for row in ids)
    assert len({tuple(row.input_ids[: length + 1]) for row in encoded}) > 1  # none shorter than it could be
    assert shared[1:] == [(rows, tokens - length if tokens > 1 else 1) for rows, tokens in whole]


def test_a_sliding_window_that_would_count_padding_is_left_alone(llama, questions):
    learner = answering("gemma3_text", llama)  # a window of 16
    with Passes(learner.model) as passes:
        together = learner.answer(questions)
    assert max(tokens for rows, tokens in passes if rows > 1) == max(
        len(row.input_ids) for row in learner.feed.encoder.encode(questions)
    )
    assert together == [learner.answer([question])[0] for question in questions]


def test_which_caches_can_be_shared():
    window = DynamicCache(config=Gemma3TextConfig(sliding_window=32, num_hidden_layers=6))
    assert is_shareable(window, 32)
    assert not is_shareable(window, 33)
    assert is_shareable(DynamicCache(), 33)
    assert not is_shareable(object(), 1)


@pytest.mark.parametrize("what", ["before", "gate"])
def test_nothing_is_shared_where_a_method_looks_at_the_tokens(what, make_decoder, questions):
    learner = make_decoder()
    if what == "gate":
        learner.attached.detach()
        learner.attached.add_blocks({}, 2).gate = lambda number, x: torch.ones(len(x), 1, 2)
    else:
        learner.attached.detach()
        add_something(learner, what)
    with Passes(learner.model) as passes:
        learner.answer(questions)
    assert passes[0][0] == len(questions)


@pytest.mark.parametrize(
    ("lengths", "shared"),
    [([30, 40], BEGINNING), ([BEGINNING, 40], BEGINNING - 1), ([30], 0), ([16, 40], 0)],
    ids=["usual", "one is the beginning of another", "one question", "too little"],
)
def test_something_is_left_of_every_question(lengths, shared, llama):
    rows = [
        Encoded([*range(10, 10 + min(length, BEGINNING)), *[100 + number] * max(0, length - BEGINNING)], [2])
        for number, length in enumerate(lengths)
    ]
    found = Opening(llama, rows, 4)
    with torch.no_grad():
        inputs = found.inputs(rows)
    caches = [value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")]
    assert [cache.get_seq_length() for cache in caches] == ([shared] if shared else [])
    assert [cache.layers[0].keys.shape[0] for cache in caches] == ([len(rows)] if shared else [])
    for row, ids, mask in zip(rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == row.input_ids
