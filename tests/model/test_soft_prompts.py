"""Soft prompts: where they stand, what is masked, and that padding and neighbours do not matter."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from clbench.learning.learner import Learner
from clbench.model.soft_prompts import hook_prompt, insert, vocabulary_rows


class Vectors(nn.Module):
    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)


def attach(learner: Learner, where: str, values: Tensor | None = None) -> bool:
    rows = vocabulary_rows(learner.backbone, 3, torch.Generator().manual_seed(0)) if values is None else values
    part = Vectors(rows)
    learner.attached.add_part("prompt", part)
    hook_prompt(learner.attached, lambda ids, mask: part.values.expand(len(ids), -1, -1), where)
    return True


def padded(batch, more):
    grown = {name: nn.functional.pad(getattr(batch, name), (0, more)) for name in ("input_ids", "attention_mask")}
    return type(batch)(**grown, labels=batch.labels)


def test_vectors_stand_before_the_tokens_or_directly_after_the_last_one():
    tokens = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])[..., None]
    prompt = torch.tensor([[8.0, 9.0], [8.0, 9.0]])[..., None]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    before, seen = insert(tokens, prompt, mask, "before")
    assert before[..., 0].tolist() == [[8, 9, 1, 2, 3], [8, 9, 4, 5, 0]]
    assert seen.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    after, seen = insert(tokens, prompt, mask, "after")
    assert after[..., 0].tolist() == [[1, 2, 3, 8, 9], [4, 5, 8, 9, 0]]
    assert seen.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_prompt_of_token_embeddings_is_as_good_as_the_tokens(where, make_learner, toy_tasks):
    plain = make_learner()
    ids = torch.tensor([7, 8, 9])
    batch = plain.feed.batch(toy_tasks[0].train[:1])
    order = [ids, batch.input_ids[0]] if where == "before" else [batch.input_ids[0], ids]
    longer = torch.cat(order)[None]
    expected = plain.loss(type(batch)(longer, torch.ones_like(longer), batch.labels)).item()
    values = plain.model.get_input_embeddings().weight[ids].clone()
    prompted = make_learner(partial(attach, where=where, values=values))
    assert prompted.loss(batch).item() == pytest.approx(expected, rel=1e-6)
    assert prompted.loss(batch, prompted.weights.data.clone()).item() == pytest.approx(expected, rel=1e-6)
    assert len(prompted.weights) == values.numel()


@pytest.mark.parametrize("where", ["before", "after"])
def test_padding_does_not_matter(where, make_learner, toy_tasks):
    learner = make_learner(partial(attach, where=where))
    learner.model.eval()
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    assert torch.allclose(learner.passes.logits(batch), learner.passes.logits(padded(batch, 9)), atol=1e-5)


@pytest.mark.parametrize("where", ["before", "after"])
def test_answers_use_the_prompt_and_not_the_neighbours(where, make_learner, toy_tasks):
    examples = toy_tasks[1].test + toy_tasks[0].test
    learner = make_learner(partial(attach, where=where), max_answer=8)
    plain = learner.answer(examples)
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(3)
    together = learner.answer(examples)
    assert together != plain
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]


def test_detach_takes_the_prompt_off(make_learner, backbone, toy_tasks):
    learner = make_learner(partial(attach, where="before"))
    batch = learner.feed.batch(toy_tasks[0].train[:2])
    prompted = learner.loss(batch).item()
    learner.attached.detach()
    assert learner.loss(batch).item() != prompted
    assert "prompt" not in dict(backbone.model.named_children())
