"""Decoder-only models: the Alpaca prompt, the loss of the answer alone, padding on the left, answers, soft prompts."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from clbench.answering.asker import Sampling
from clbench.checking.battery import Battery, check_changes
from clbench.checking.observer import Observer
from clbench.data.tasks import Example
from clbench.discovery import find_plugins
from clbench.encoding.alpaca import ask_alpaca
from clbench.encoding.batches import IGNORED
from clbench.encoding.encoder import Encoder
from clbench.errors import ClbenchError
from clbench.model.decoder import positions
from tests.model.test_soft_prompts import attach

TOPIC = Example("What is the topic? Option: World, Sports.\n", "A match.", "Sports")
METHODS = find_plugins([])
SMALLER = {"lfpt5": {"prompt_length": "6", "samples_per_class": "2", "write_length": "12"}}


def test_the_prompt_is_the_alpaca_template():
    assert ask_alpaca(TOPIC).prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhat is the topic? Option: World, Sports.\n\n### Input:\nA match.\nAnswer:\n\n### Response:\n"
    )
    superni = Example("Definition: Sum up.\n\nNow complete the following example -\nInput: ", "Text", "y", "\nOutput: ")
    assert ask_alpaca(superni).prompt.endswith(
        "### Instruction:\nDefinition: Sum up.\n\nNow complete the following example -\n\n"
        "### Input:\nInput: Text\nOutput:\n\n### Response:\n"
    )
    alone = ask_alpaca(Example("", "Say hello.", "hello", ""))
    assert "### Input" not in alone.prompt
    assert alone.prompt.endswith("completes the request.\n\n### Instruction:\nSay hello.\n\n### Response:\n")
    assert ask_alpaca(TOPIC).passage == TOPIC.passage
    assert ask_alpaca(TOPIC).target == TOPIC.target


def test_prompts_have_no_end_token_and_targets_have_one(llama):
    encoded = llama.encoder(256, 8).encode([TOPIC])[0]
    begin, end = llama.tokenizer.bos_token_id, llama.tokenizer.eos_token_id
    assert encoded.input_ids[0] == begin
    assert end not in encoded.input_ids
    assert encoded.labels == [*llama.tokenizer("Sports", add_special_tokens=False)["input_ids"], end]
    assert llama.tokenizer.decode(encoded.input_ids[1:]) == ask_alpaca(TOPIC).prompt
    plain = llama.encoder(256, 8, "plain").encode([TOPIC])[0]
    assert llama.tokenizer.decode(plain.input_ids[1:]) == TOPIC.prompt
    assert llama.encoder(256, 2).encode([replace(TOPIC, target="Sports and more")])[0].labels[1:] == [end]


def test_an_end_token_that_the_tokenizer_adds_is_taken_off_prompts(backbone):
    """T5's tokenizer closes every text."""
    end = backbone.tokenizer.eos_token_id
    encoded = Encoder(backbone.tokenizer, 96, 8, end=end).encode([TOPIC])[0]
    assert end not in encoded.input_ids
    assert encoded.labels.count(end) == 1


def test_only_the_passage_is_cut(llama):
    long = replace(TOPIC, passage=" ".join(f"word{i}" for i in range(300)))
    text = llama.tokenizer.decode(llama.encoder(200, 8).encode([long])[0].input_ids)
    head, tail = ask_alpaca(long).head, ask_alpaca(long).tail
    assert text.startswith(f"<s>{head}word0")
    assert text.endswith(f"299{tail}")
    with pytest.raises(ClbenchError, match="max_input 40 is too short"):
        llama.encoder(40, 8).encode([long])


def test_the_padding_token_is_chosen_and_stands_on_the_left(llama, make_decoder, toy_tasks):
    assert llama.tokenizer.pad_token_id == llama.tokenizer.eos_token_id
    batch = make_decoder().feed.batch(toy_tasks[0].train[:4])
    assert batch.attention_mask[:, -1].tolist() == [1] * 4
    assert batch.attention_mask.diff(dim=1).min() == 0 < batch.attention_mask.diff(dim=1).max()
    assert positions(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_the_loss_is_the_cross_entropy_of_the_target_tokens(make_decoder, toy_tasks):
    learner = make_decoder()
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    learner.model.eval()
    rows = learner.feed.encoder.encode(toy_tasks[1].train[:5])
    assert len({len(row.input_ids) for row in rows}) > 1
    terms, predicted = [], []
    with torch.no_grad():
        for row in rows:  # one sequence at a time, without padding, masks or labels
            scores = learner.model(input_ids=torch.tensor([row.input_ids + row.labels])).logits[0]
            predicted.append(scores[len(row.input_ids) - 1 : -1])
            terms.append(functional.cross_entropy(predicted[-1], torch.tensor(row.labels), reduction="none"))
        batch = learner.feed.batch(toy_tasks[1].train[:5])
        assert learner.loss(batch).item() == pytest.approx(torch.cat(terms).mean().item(), rel=1e-5)
        logits = learner.passes.logits(batch)
    assert logits.shape[:2] == batch.labels.shape
    for row, scores in zip(logits, predicted, strict=True):
        assert torch.allclose(row[: len(scores)], scores, atol=1e-4)
    assert (batch.labels != IGNORED).sum() == sum(len(row.labels) for row in rows)


def test_padding_does_not_matter(make_decoder, toy_tasks):
    learner = make_decoder()
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    learner.model.eval()
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    more = replace(
        batch,
        input_ids=functional.pad(batch.input_ids, (7, 0), value=5),
        attention_mask=functional.pad(batch.attention_mask, (7, 0)),
        labels=functional.pad(batch.labels, (0, 3), value=IGNORED),
    )
    with torch.no_grad():
        assert torch.allclose(
            learner.passes.logits(batch), learner.passes.logits(more)[:, : batch.labels.shape[1]], atol=1e-4
        )
        assert learner.loss(batch).item() == pytest.approx(learner.loss(more).item(), rel=1e-5)


def test_squared_gradients_are_those_of_single_examples(make_decoder, toy_tasks):
    learner = make_decoder(lora_dropout=0.0)
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    rows = toy_tasks[0].train[:5]
    expected = torch.zeros(len(learner.weights))
    for row in rows:
        learner.weights.zero_grad()
        batch = learner.feed.batch([row])
        learner.passes.backward(learner.loss(batch) * (batch.labels != IGNORED).sum())
        expected += learner.weights.grad.square()
    assert torch.allclose(learner.passes.squared_gradients(rows), expected / 5, rtol=1e-3, atol=1e-6)


def test_answers_are_the_new_tokens_and_do_not_depend_on_neighbours(make_decoder, toy_tasks):
    learner = make_decoder(epochs=25, max_answer=8, lora_targets="all-linear", lora_rank=8)
    training = learner.training(toy_tasks[1].train)
    for batch in training:
        training.step(learner.loss(batch))
    examples = toy_tasks[1].test + toy_tasks[0].test
    together = learner.answer(examples)
    assert set(together) & set(toy_tasks[1].labels)  # it has learned to answer and to end
    assert not any("###" in answer for answer in together)
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]
    expected = []
    with torch.no_grad():
        for row, answer in zip(learner.feed.encoder.encode(examples[:3]), together, strict=False):
            ids = list(row.input_ids)
            while len(ids) < len(row.input_ids) + 8 and ids[-1] != learner.tokenizer.eos_token_id:
                ids.append(int(learner.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            new = ids[len(row.input_ids) :]
            expected.append(learner.tokenizer.decode(new, skip_special_tokens=True).strip())
            assert answer == expected[-1]
    assert len(expected) == 3


def test_a_repetition_penalty_counts_the_answer_alone(make_decoder):
    learner = make_decoder(max_answer=6)
    question = Example("Say it.\n", "a b c", "x")
    first = learner.answer([question], max_answer=1)
    assert learner.answer([question], sampling=Sampling(1, 1e6), max_answer=1) == first  # nothing is repeated yet
    ids = learner.tokenizer(learner.answer([question], sampling=Sampling(1, 1e6))[0], add_special_tokens=False)[
        "input_ids"
    ]
    assert len(set(ids)) == len(ids)


def test_labels_are_chosen_by_constrained_greedy_decoding(make_decoder, toy_tasks):
    learner = make_decoder(answers="labels")
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.3)
    learner.model.eval()
    labels = ["Sports", "Science", "Science or Technology", "World", "Wood"]
    sequences = [learner.feed.encoder.encode([Example("", "", label, "")])[0].labels for label in labels]
    examples = toy_tasks[1].test + toy_tasks[0].test
    expected = []
    for row in learner.feed.encoder.encode(examples):
        left, depth = list(range(len(labels))), 0
        while len(left) > 1:
            taken = sequences[left[0]][:depth]
            with torch.no_grad():
                scores = learner.model(input_ids=torch.tensor([row.input_ids + taken])).logits[0, -1]
            best = max({sequences[i][depth] for i in left}, key=lambda token: scores[token].item())
            left, depth = [i for i in left if sequences[i][depth] == best], depth + 1
        expected.append(labels[left[0]])
    assert learner.answer(examples, labels=labels) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_soft_prompt_of_token_embeddings_is_as_good_as_the_tokens(where, make_decoder, toy_tasks):
    plain = make_decoder()
    ids = torch.tensor([7, 8, 9])
    examples = toy_tasks[0].train[:3]
    rows = [replace(r, input_ids=_with(r.input_ids, ids.tolist(), where)) for r in plain.feed.encoder.encode(examples)]
    longer = plain.backbone.collate(rows)
    expected, scores = plain.loss(longer).item(), plain.passes.logits(longer)
    values = plain.model.get_input_embeddings().weight[ids].clone()
    answers = [
        plain.tokenizer.decode(_greedy(plain, row.input_ids, 4), skip_special_tokens=True).strip() for row in rows
    ]
    prompted = make_decoder(partial(attach, where=where, values=values))
    batch = prompted.feed.batch(examples)
    assert prompted.loss(batch).item() == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(prompted.passes.logits(batch), scores, atol=1e-4)
    assert prompted.loss(batch, prompted.weights.data.clone()).item() == pytest.approx(expected, rel=1e-5)
    assert prompted.loss(batch, prompted.weights.data + 1).item() != pytest.approx(expected, rel=1e-3)
    assert prompted.answer(examples) == answers
    assert [prompted.answer([example])[0] for example in examples] == answers
    prompted.loss(batch).backward()
    assert prompted.weights.grad.abs().max() > 0


def _with(prompt: list[int], soft: list[int], where: str) -> list[int]:
    return [*soft, *prompt] if where == "before" else [*prompt, *soft]


def _greedy(learner, ids: list[int], most: int) -> list[int]:
    begin = len(ids)
    with torch.no_grad():
        while len(ids) < begin + most and ids[-1] != learner.tokenizer.eos_token_id:
            ids = [*ids, int(learner.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[begin:]


@pytest.mark.parametrize("name", METHODS.methods)
def test_every_method_learns_a_task(name, llama, tmp_path, monkeypatch):
    monkeypatch.setattr("clbench.checking.battery.SETTINGS", _battery_settings())
    method = METHODS.method(name)
    battery = Battery(METHODS, method, method.resolve_options(SMALLER.get(name, {})), llama, tmp_path)
    observer = Observer()
    outcome = battery.run("whole", [observer], tasks=observer.watch(battery.tasks))
    assert check_changes(outcome, observer) == ("", "")
    assert outcome.record.lora_targets in ("q_proj,v_proj", None)
    named = [answer for task in battery.tasks for answer in outcome.answers[task.name]]
    assert named == list(observer.unnamed)


def test_routing_sees_the_prompt_alone(make_decoder, toy_tasks):
    """SAPT's attention and L2P's choice are those of the prompt, in training as in generation; labels do not enter."""
    examples = toy_tasks[0].train[:4]
    others = [replace(example, target="Something else entirely") for example in examples]
    sapt = METHODS.method("sapt").build({})
    learner = make_decoder(sapt.attach, stream_length=2)
    sapt.learn_task(learner, toy_tasks[1])
    sapt.start_block(learner)
    attention, table = learner.attached.parts["attention"], learner.model.get_input_embeddings().weight
    summaries = [table[row.input_ids].amax(0) for row in learner.feed.encoder.encode(examples)]
    with torch.no_grad():
        expected = attention(torch.stack(summaries)).exp()
        for asked in (examples, others):
            learner.loss(learner.feed.batch(asked))
            assert torch.allclose(attention.shares, expected, atol=1e-6)
    assert expected.shape == (4, 2)
    learner.answer(examples[:1])
    assert torch.allclose(attention.shares, expected[:1], atol=1e-6)

    learner = make_decoder(METHODS.method("l2p").build({}).attach)
    similarities = []
    for asked in (examples, others):
        learner.passes.train_mode()
        learner.loss(learner.feed.batch(asked))
        similarities.append(learner.attached.parts["pool"].similarity.item())
    assert similarities[0] == similarities[1]


def test_the_load_balance_counts_prompt_and_answer_but_no_padding(make_decoder, toy_tasks):
    method = METHODS.method("moelora").build({"load_balance": 1.0, "experts": 3})
    learner = make_decoder(method.attach, lora_dropout=0.0)
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    more = replace(
        batch,
        input_ids=functional.pad(batch.input_ids, (9, 0), value=5),
        attention_mask=functional.pad(batch.attention_mask, (9, 0)),
        labels=functional.pad(batch.labels, (0, 4), value=IGNORED),
    )
    balanced = method.balanced_loss(learner, batch).item()
    assert balanced == pytest.approx(method.balanced_loss(learner, more).item(), rel=1e-5)
    assert balanced > learner.loss(batch).item() + 0.5  # the term is 1 where the load is even


def _battery_settings():
    from clbench.checking.battery import SETTINGS

    return replace(SETTINGS, lora_targets="auto", max_input=256)


def test_a_query_of_the_encoder_needs_one(make_decoder):
    method = METHODS.method("l2p").build({"query": "encoder"})
    with pytest.raises(ClbenchError, match="query=encoder needs a model with an encoder; use query=embedding"):
        make_decoder(method.attach)
