"""Decoder-only models: the Alpaca prompt, the loss of the answer alone, padding on the left, answers, soft prompts."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config

from clbench.answering.asker import Sampling
from clbench.checking.battery import Battery, check_changes
from clbench.checking.observer import Observer
from clbench.data.tasks import Example
from clbench.discovery import find_plugins
from clbench.encoding.alpaca import ask_alpaca
from clbench.encoding.batches import IGNORED
from clbench.encoding.encoder import Encoder
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone
from clbench.model.decoder import positions, read_labels
from clbench.model.fast.compiled import CompiledLoss
from clbench.settings import Settings
from tests.conftest import TINY_LLAMA
from tests.model.test_soft_prompts import attach

TOPIC = Example("What is the topic? Option: World, Sports.\n", "A match.", "Sports")
METHODS = find_plugins([])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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


DECODERS = {
    "llama": LlamaConfig(num_attention_heads=4, num_key_value_heads=2),
    "gpt2": GPT2Config(n_positions=512, n_embd=32, n_layer=1, n_head=4),
    "qwen2": Qwen2Config(num_attention_heads=4, num_key_value_heads=2),
    "gemma3_text": Gemma3TextConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=16),
}


def new_decoder(kind: str, llama, device: str = "cpu", **chosen) -> Learner:
    """Return a learner without an adapter on a small random decoder, with the tiny LLaMA's tokenizer."""
    config = deepcopy(DECODERS[kind])  # the model writes into it
    if kind != "gpt2":
        config.update({"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2})
    config.update({"vocab_size": 600, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, **chosen).to(device).requires_grad_(False).eval()
    read_labels(model)
    settings = Settings(**{**TINY_LLAMA, "lora_dropout": 0.0})
    return Learner(Backbone(kind, model, llama.tokenizer, torch.device(device)), settings, stream_length=1)


def add_something(learner: Learner, what: str) -> None:
    """Put LoRA, a soft prompt, or LoRA in blocks with a frozen one on the model."""
    if what in ("before", "after"):
        attach(learner, what)
    elif what == "blocks":
        blocks = learner.attached.add_blocks({})
        past = blocks.freeze(learner.weights, torch.Generator().manual_seed(0))
        learner.attached.detach()
        learner.attached.add_blocks(past, 2)
    else:
        learner.attached.add_lora()


@pytest.mark.parametrize("what", ["lora", "before", "after", "blocks"])
@pytest.mark.parametrize("kind", DECODERS)
def test_no_row_of_a_mask_is_empty_in_training(kind, what, llama, toy_tasks, monkeypatch):
    """Attention kernels may give no finite gradient for a query that sees no key: cuDNN's does not."""
    learner, masks = new_decoder(kind, llama, attn_implementation="sdpa"), []
    add_something(learner, what)
    own = functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, is_causal=False, **more):
        masks.append(attn_mask)
        assert is_causal or attn_mask is not None
        return own(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    batch = learner.feed.batch(toy_tasks[0].train[:4])
    assert batch.attention_mask.min() == 0
    learner.loss(batch).backward()
    assert masks
    assert all(mask is None or mask.any(-1).all() for mask in masks)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("what", ["lora", "before", "after", "blocks"])
def test_gradients_of_padded_batches_are_those_of_eager_attention(what, dtype, device, llama, toy_tasks):
    found = []
    for attention in ("eager", "sdpa"):
        learner = new_decoder("llama", llama, device, dtype=dtype, attn_implementation=attention)
        add_something(learner, what)
        noise = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)).to(device)
        learner.weights.data.add_(noise, alpha=0.1)
        batch = learner.feed.batch(toy_tasks[0].train[:6])
        assert batch.attention_mask.min() == 0
        learner.loss(batch).backward()
        found.append(learner.weights.grad.clone())
    assert found[1].isfinite().all()
    difference = torch.linalg.vector_norm(found[0] - found[1]) / torch.linalg.vector_norm(found[0])
    assert 0 <= difference < (1e-5 if dtype == torch.float32 else 0.05)


def test_the_head_scores_the_labels_alone_in_one_product(make_decoder, toy_tasks):
    learner, seen = make_decoder(), []
    batch = learner.feed.batch(toy_tasks[1].train[:5])
    head = learner.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda part, inputs, output: seen.append(inputs[0]))
    expected = learner.loss(batch)
    learner.loss(replace(batch))  # does not know where its labels are
    learner.model(input_ids=batch.input_ids)
    learner.model(input_ids=batch.input_ids, logits_to_keep=1)  # as in generation
    handle.remove()
    labels, shape = int((batch.labels != IGNORED).sum()), batch.input_ids.shape
    assert labels < batch.labels.numel()
    assert [tuple(part.shape[:-1]) for part in seen] == [(labels,), batch.labels.shape, shape, (shape[0], 1)]
    assert all(states.is_contiguous() for states in seen)
    assert learner.loss(replace(batch)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_head_can_have_lora(make_decoder, toy_tasks):
    plain = make_decoder()
    batch = plain.feed.batch(toy_tasks[1].train[:5])
    expected = plain.loss(batch).item()
    learner = make_decoder(lora_targets="q_proj,lm_head", lora_dropout=0.0)
    assert learner.loss(batch).item() == pytest.approx(expected, rel=1e-5)
    learner.loss(batch).backward()
    gradients = dict(learner.weights.views(learner.weights.grad))
    assert min(float(view.abs().max()) for name, view in gradients.items() if "lora_B" in name)
    assert learner.passes.logits(batch).shape[:2] == batch.labels.shape
    assert make_decoder().loss(batch).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.compiler
def test_torch_compile_computes_the_same(make_decoder, toy_tasks):
    learner = make_decoder(lora_dropout=0.0)
    compiled, pairs = CompiledLoss(learner.model, backend="eager"), []
    with torch._dynamo.config.patch(error_on_recompile=False):
        for rows in (slice(0, 3), slice(3, 8)):
            batch = learner.feed.batch(toy_tasks[1].train[rows])
            pairs.append((compiled(batch).item(), learner.loss(batch).item()))
    for found, expected in pairs:
        assert found == pytest.approx(expected, rel=1e-5)
    assert pairs[0] != pairs[1]


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
