"""Greedy decoding whose rows leave as they end: the tokens of `generate`, with fewer rows a pass."""

import itertools

import pytest
import torch

from clbench.answering import greedy
from clbench.answering.asker import generation_config
from clbench.answering.greedy import write_greedily

LONGEST = 12


@pytest.fixture(params=["encoder-decoder", "decoder"])
def asked(request, make_learner, make_decoder, toy_tasks):
    """Model, prompts and settings of generation where answers end after 1 to 12 tokens, or not at all."""
    learner = (make_decoder if request.param == "decoder" else make_learner)(lora_targets="all-linear", lora_rank=8)
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.4)
    learner.model.eval()
    batch = learner.feed.batch([*toy_tasks[0].test, *toy_tasks[1].test])
    config = generation_config(learner.backbone)
    config.eos_token_id = [-1]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        plain = learner.model.generate(**inputs, generation_config=config, max_new_tokens=LONGEST)
    taken = plain[:, batch.input_ids.shape[1] if request.param == "decoder" else 1 :]
    pairs = itertools.combinations(taken.unique().tolist(), 2)
    config.eos_token_id = list(max(pairs, key=lambda ends: mixture(cut(taken, ends))))
    return learner.model, {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}, config


def mixture(answers):
    """Return how many lengths answers have; 0 where less than half of them end early."""
    lengths = [len(answer) for answer in answers]
    return len(set(lengths)) if sum(length < LONGEST for length in lengths) * 2 > len(lengths) else 0


def cut(tokens, ends):
    """Return each row's tokens up to its end token."""
    found = []
    for row in tokens.tolist():
        end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        found.append(row[:end])
    return found


@torch.no_grad()
@pytest.mark.parametrize("stay", [0.5, 0.9])
def test_the_tokens_are_those_of_generate_and_rows_that_ended_leave(asked, stay, monkeypatch):
    monkeypatch.setattr(greedy, "STAY", stay)
    model, inputs, config = asked
    skipped = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    expected = model.generate(**inputs, generation_config=config, max_new_tokens=LONGEST)[:, skipped:]
    expected = cut(expected, config.eos_token_id)
    assert len({len(answer) for answer in expected}) > 2
    passes, reader = [], model.get_decoder() if model.config.is_encoder_decoder else model
    handle = reader.register_forward_pre_hook(
        lambda part, arguments, named: passes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    found, left = write_greedily(model, inputs, config, LONGEST)
    handle.remove()
    assert left == []
    assert cut(found, config.eos_token_id) == expected
    rows = [shape[0] for shape in passes]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == len(expected) > rows[-1]
    assert len(passes) == max(map(len, expected))  # going on takes no pass of its own
    assert all(shape[1] == 1 for shape in passes[1:])
    wanted = sum(map(len, expected))
    assert wanted <= sum(rows) <= wanted / stay


@torch.no_grad()
def test_what_follows_an_end_is_padding(asked):
    model, inputs, config = asked
    config.pad_token_id = 3
    found, left = write_greedily(model, inputs, config, LONGEST)
    assert left == []
    assert found.shape == (len(inputs["input_ids"]), LONGEST)
    for row, answer in zip(found.tolist(), cut(found, config.eos_token_id), strict=True):
        assert row[len(answer) :] == [3] * (LONGEST - len(answer))


@torch.no_grad()
def test_the_last_few_rows_are_put_off_early_or_not_at_all(asked, monkeypatch):
    model, inputs, config = asked
    whole = cut(write_greedily(model, inputs, config, LONGEST)[0], config.eos_token_id)
    found, left = write_greedily(model, inputs, config, 8 * LONGEST, put_off=True)
    assert 0 < len(left) <= greedy.FEW
    for row, answer in enumerate(cut(found, config.eos_token_id)):
        assert (answer == whole[row]) == (row not in left)
    monkeypatch.setattr(greedy, "EARLY", 10**6)
    assert write_greedily(model, inputs, config, LONGEST, put_off=True)[1] == []


def test_rows_that_are_put_off_are_asked_together(make_learner, toy_tasks, monkeypatch):
    learner = make_learner(max_answer=40, eval_batch_size=4, lora_targets="all-linear", lora_rank=8)
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.4)
    rows, calls = [*toy_tasks[0].test, *toy_tasks[1].test], []
    own = write_greedily

    def noted(model, inputs, config, longest, put_off=False):
        found, left = own(model, inputs, config, longest, put_off)
        if put_off:  # as if some answers were long
            left = [0, 1]
        calls.append((len(inputs["input_ids"]), put_off))
        return found, left

    expected = learner.answer(rows)
    monkeypatch.setattr("clbench.answering.asker.write_greedily", noted)
    assert learner.answer(rows) == expected
    assert calls == [(4, True)] * 4 + [(4, False)] * 2
