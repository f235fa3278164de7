"""L2P: the numeric properties of its specification, with the real method."""

import pytest
import torch

from clbench.encoding.batches import Batch
from clbench.model.soft_prompts import hook_prompt
from clbench.plugins.l2p import L2P, Pool, masked_mean


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attached(make_learner, **options):
    method = L2P(**options)
    return method, make_learner(method.attach)


def test_the_similarity_is_the_number_of_chosen_keys_where_all_are_parallel_to_the_query():
    queries = drawn(4, 6)
    pool = Pool(drawn(5, 2, 6), drawn(5, 6, seed=1), 3)
    pool(queries)
    assert -3 <= pool.similarity.item() <= 3
    parallel = Pool(drawn(5, 2, 6), drawn(1, 6) * torch.arange(1.0, 6.0)[:, None], 3)
    parallel(drawn(1, 6) * 7)
    assert parallel.similarity.item() == pytest.approx(3)


def test_the_choice_depends_on_directions_alone_and_on_no_other_row():
    queries, prompts, keys = drawn(4, 6), drawn(5, 2, 6, seed=2), drawn(5, 6, seed=1)
    chosen = Pool(prompts, keys, 3).eval()(queries)
    assert chosen.shape == (4, 6, 6)
    scaled = Pool(prompts, keys * torch.tensor([[0.1], [2.0], [30.0], [1.0], [5.0]]), 3).eval()
    assert torch.equal(scaled(queries * 9), chosen)
    assert torch.equal(Pool(prompts, keys, 3).eval()(queries.flip(0)), chosen.flip(0))


def test_prompts_stand_in_the_order_of_their_cosine():
    prompts = torch.arange(3.0)[:, None, None].expand(3, 2, 2).clone()
    keys = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    found = Pool(prompts, keys, 2).eval()(torch.tensor([[0.1, 1.0], [1.0, 0.1]]))
    assert found[..., 0].tolist() == [[2, 2, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("query", ["encoder", "embedding"])
def test_padding_changes_neither_query_nor_loss(query, make_learner, toy_tasks):
    method, learner = attached(make_learner, query=query)
    pool = learner.attached.parts["pool"]
    batch = learner.feed.batch(toy_tasks[0].train[:3])
    wide = [torch.nn.functional.pad(tensor, (0, 11)) for tensor in (batch.input_ids, batch.attention_mask)]
    queries = method.ask(learner, batch.input_ids, batch.attention_mask)
    assert torch.allclose(queries, method.ask(learner, *wide), atol=1e-6)
    nearest = torch.cosine_similarity(queries[:, None], pool.keys[None], dim=-1).topk(3).indices
    assert torch.equal(pool.eval()(method.ask(learner, *wide)), pool.prompts[nearest].flatten(1, 2))
    assert not queries.requires_grad
    assert learner.loss(Batch(*wide, batch.labels)).item() == pytest.approx(learner.loss(batch).item(), rel=1e-5)


def test_the_query_is_that_of_the_model_without_prompt(make_learner, toy_tasks):
    plain = make_learner(lambda learner: None)
    batch = plain.feed.batch(toy_tasks[0].train[:3])
    plain.model.eval()
    states = plain.model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    expected = masked_mean(states.last_hidden_state, batch.attention_mask)
    method, learner = attached(make_learner)
    found = method.ask(learner, batch.input_ids, batch.attention_mask)
    assert torch.allclose(found, expected, atol=1e-6)


def test_only_chosen_prompts_and_keys_get_a_gradient_and_the_backbone_none(make_learner, toy_tasks):
    _, learner = attached(make_learner, pool=8, top=2, pull=0.5)
    pool = learner.attached.parts["pool"]
    pool.chosen = torch.zeros(8)
    learner.model.train()
    loss = learner.loss(learner.feed.batch(toy_tasks[0].train[:2]))
    learner.weights.zero_grad()
    learner.passes.backward(loss - 0.5 * pool.similarity)
    chosen = pool.chosen > 0
    assert 2 <= chosen.sum() <= 4
    assert torch.equal(pool.prompts.grad.flatten(1).abs().sum(1) > 0, chosen)
    assert torch.equal(pool.keys.grad.abs().sum(1) > 0, chosen)
    assert all(p.grad is None for name, p in learner.model.named_parameters() if not name.startswith("pool."))


def test_without_pull_the_keys_get_no_gradient(make_learner, toy_tasks):
    method, learner = attached(make_learner, pull=0.0)
    keys = learner.attached.parts["pool"].keys.detach().clone()
    learner.begin_task(0, toy_tasks[0])
    method.learn_task(learner, toy_tasks[0])
    assert torch.equal(learner.attached.parts["pool"].keys, keys)


def test_the_encoder_reads_top_times_length_vectors_more(make_learner, toy_tasks):
    _, learner = attached(make_learner, length=4, top=3)
    seen = []

    def note(module, arguments, named, output):
        mask = named["attention_mask"]
        seen.append((output.last_hidden_state.shape[1], mask.shape[1], int(mask[:, :12].min())))

    handle = learner.model.get_encoder().register_forward_hook(note, with_kwargs=True)
    batch = learner.feed.batch(toy_tasks[0].train[:3])
    learner.loss(batch)
    handle.remove()
    tokens = batch.input_ids.shape[1]
    assert seen == [(tokens + 12, tokens + 12, 1)]  # the query is computed where no hook sees it


def test_the_pool_is_all_that_is_trained_and_does_not_grow(make_learner, toy_tasks):
    method, learner = attached(make_learner)
    assert len(learner.weights) == 10 * 5 * 32 + 10 * 32  # 61,440 where the width is 1024
    for index, task in enumerate(toy_tasks):
        learner.begin_task(index, task)
        report = method.learn_task(learner, task)
        assert -1 <= report["cosine"] <= 1
        assert 3 <= report["keys_used"] <= 10
        assert len(learner.weights) == 10 * 5 * 32 + 10 * 32


def test_the_rate_is_the_methods_own_and_constant(make_learner, toy_tasks):
    _, learner = attached(make_learner)
    training = learner.training(toy_tasks[0].train, learning_rate=0.25)
    rates = []
    for batch in training:
        rates.append(training.learning_rate)
        training.step(learner.loss(batch))
    assert rates == [0.25] * training.steps


def test_one_prompt_of_one_is_ordinary_prompt_tuning(make_learner, toy_tasks):
    _, learner = attached(make_learner, pool=1, top=1, length=3)
    values = learner.attached.parts["pool"].prompts.detach()[0].clone()
    assert len(learner.weights) == 3 * 32 + 32
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    learner.model.eval()
    chosen = learner.loss(batch).item()
    plain = make_learner(
        lambda learner: hook_prompt(learner.attached, lambda ids, mask: values.expand(len(ids), -1, -1), "before")
    )
    assert plain.loss(batch).item() == pytest.approx(chosen, rel=1e-6)


def test_the_query_has_no_dropout_and_leaves_training_as_it_was(make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner)
    batch = learner.feed.batch(toy_tasks[0].train[:3])
    asked = (learner, batch.input_ids, batch.attention_mask)
    learner.model.eval()
    expected = method.ask(*asked)
    for module in learner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            monkeypatch.setattr(module, "p", 0.5)
    learner.passes.train_mode()
    assert learner.loss(batch).item() != learner.loss(batch).item()  # there is dropout
    assert torch.equal(method.ask(*asked), expected)
    assert learner.model.get_encoder().training


def test_keys_are_pulled_to_the_queries_that_chose_them(make_learner, toy_tasks):
    """All keys are chosen, so that the mean cosine says how near they are."""
    cosines = {}
    for pull in (0.0, 5.0):
        method = L2P(pool=2, top=2, pull=pull)
        learner = make_learner(method.attach, epochs=6)
        learner.begin_task(0, toy_tasks[0])
        method.learn_task(learner, toy_tasks[0])
        pool, batch = learner.attached.parts["pool"], learner.feed.batch(toy_tasks[0].train)
        learner.passes.train_mode()
        pool(method.ask(learner, batch.input_ids, batch.attention_mask))
        cosines[pull] = pool.similarity.item() / 2
    assert cosines[5.0] > cosines[0.0] + 0.2


def test_the_reported_cosine_is_that_of_a_chosen_key(make_learner, toy_tasks):
    method, learner = attached(make_learner, pool=4, top=3, learning_rate=1e-12)
    learner.begin_task(0, toy_tasks[0])
    report = method.learn_task(learner, toy_tasks[0])
    pool, batch = learner.attached.parts["pool"], learner.feed.batch(toy_tasks[0].train)
    queries = method.ask(learner, batch.input_ids, batch.attention_mask)
    nearest = torch.cosine_similarity(queries[:, None], pool.keys[None], dim=-1).topk(3).values
    assert report["cosine"] == pytest.approx(nearest.mean().item(), abs=1e-5)


def test_batchwise_the_rows_share_the_prompts_that_were_chosen_most_but_not_in_evaluation():
    keys = torch.eye(3)
    prompts = torch.arange(3.0)[:, None, None].expand(3, 1, 1).clone()
    queries = torch.tensor([[1.0, 0.2, 0.0], [1.0, 0.0, 0.2], [0.0, 0.1, 1.0]])
    pool = Pool(prompts, keys, 1, batchwise=True)
    assert pool(queries).flatten().tolist() == [0, 0, 0]
    assert pool.eval()(queries).flatten().tolist() == [0, 0, 2]


def test_an_answer_does_not_depend_on_its_neighbours(make_learner, toy_tasks):
    method = L2P(pool=6, top=2)
    learner = make_learner(method.attach, max_answer=8)
    learner.attached.parts["pool"].prompts.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(4)
    examples = toy_tasks[1].test + toy_tasks[0].test
    together = learner.answer(examples)
    assert len(set(together)) > 1
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]
