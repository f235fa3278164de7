"""Answers: batches that fit into memory, generation that ends, labels as constrained greedy decoding gives them."""

import itertools
import random
import string
from dataclasses import replace

import pytest
import torch
from torch import nn

from clbench.answering.asker import CPU_PADDING, RepetitionPenalty, Sampling
from clbench.answering.label_trie import LabelTrie
from clbench.data.tasks import Example
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone, merged
from clbench.model.batch_limits import BatchLimits
from clbench.settings import Settings
from tests.conftest import TINY

EXAMPLE_PLUGINS = find_plugins()


def trained(make_learner, examples, steps=20, **settings):
    """Return a learner that has seen examples, so that its answers differ and end."""
    learner = make_learner(epochs=steps, **settings)
    training = learner.training(examples)
    for batch in training:
        training.step(learner.loss(batch))
    return learner


def randomised(learner, seed, scale=1.0):
    """Give the adapter random weights."""
    noise = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(seed))
    learner.weights.assign(scale * noise.to(learner.device))
    return learner


class Meter:
    """Count the passes of a module and their rows; above a number of padded tokens, run out of memory."""

    def __init__(self, module: nn.Module, most=None, error=None):
        self.batches, self.most, self.error = [], most, error
        self.handle = module.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, arguments, named):
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        if self.most is not None and ids.numel() > self.most:
            raise self.error
        self.batches.append(tuple(ids.shape[:2]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def test_answers_do_not_depend_on_neighbours_or_order(make_learner, toy_tasks):
    learner = trained(make_learner, toy_tasks[1].train, max_answer=8)
    examples = toy_tasks[1].test + toy_tasks[0].test
    together = learner.answer(examples)
    assert len(set(together)) > 1
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]


def test_an_answer_takes_the_tokens_of_its_task_unless_a_setting_says(make_learner, backbone):
    short, long = (Example("Topic?\n", "x", "y", max_answer=longest) for longest in (2, 6))
    learner = make_learner(max_answer=None)
    answers = learner.answer([short, long])
    assert answers == [learner.answer([example])[0] for example in (short, long)]
    counts = [len(backbone.tokenizer(answer)["input_ids"]) for answer in answers]
    assert counts[0] <= 3 < counts[1]  # an untrained model rarely ends by itself
    assert learner.feed.encoder.max_target == 8
    assert make_learner(max_answer=2).answer([long]) == [answers[0]]


def test_a_batch_ends_when_its_longest_answer_does(make_learner, toy_tasks):
    learner = trained(make_learner, toy_tasks[1].train, max_answer=32, max_target=16)
    examples = toy_tasks[1].test

    def tokens(answers):
        return [len(learner.tokenizer(answer)["input_ids"]) for answer in answers]  # the end token among them

    ending = [example for example, count in zip(examples, tokens(learner.answer(examples)), strict=True) if count < 16]
    assert len(ending) > 2
    with Meter(learner.model.get_decoder()) as meter:
        answers = learner.answer(ending)
    assert len(meter.batches) == max(tokens(answers)) > 2


# --- memory -------------------------------------------------------------------------------------------------------------


def test_a_batch_has_as_many_rows_as_both_limits_allow():
    settings = Settings(eval_batch_size=8, eval_tokens=100)
    assert [BatchLimits().rows([tokens] * 9, settings) for tokens in (1, 12, 13, 50, 100, 101)] == [8, 8, 7, 2, 1, 1]
    assert [BatchLimits().rows([10, 9, 7, 7, 1], settings, padding) for padding in (0, 1, 3, 4, 7, 99)] == [
        1,
        2,
        2,
        3,
        4,
        5,
    ]
    limits = BatchLimits()
    limits.shrink(7, 13)
    assert limits.tokens == 45
    assert limits.rows([13] * 9, settings) == 3
    assert limits.rows([90] * 9, settings) == 1


class Noting(BatchLimits):
    """The limits, with the padding of every question."""

    def rows(self, lengths, settings, padding):
        self.asked.append(padding)
        return super().rows(lengths, settings, padding)


def test_on_a_cpu_padding_is_bounded_by_what_the_targets_passes_cost(backbone, toy_tasks):
    limits = Noting()
    limits.asked = asked = []
    learner = Learner(replace(backbone, limits=limits), Settings(**{**TINY, "max_target": 40}))
    assert learner.answer([]) == []
    short = toy_tasks[0].test[:2]
    long = [replace(example, target=" ".join("word" for _ in range(99))) for example in short]
    learner.answer(short)
    learner.answer(long)
    assert min(asked) >= 4 * CPU_PADDING
    assert max(asked) == 40 * CPU_PADDING


def test_batches_keep_to_the_tokens_that_are_allowed(make_learner, toy_tasks):
    examples = toy_tasks[0].test + toy_tasks[1].test
    learner = make_learner(max_answer=4, eval_tokens=300, eval_batch_size=5)
    with Meter(learner.model.get_encoder()) as meter:
        learner.answer(examples)
    assert sum(rows for rows, _ in meter.batches) == len(examples)
    assert all(rows * (tokens + 4) <= 300 and rows <= 5 for rows, tokens in meter.batches)
    assert len({rows for rows, _ in meter.batches}) > 1
    assert [tokens for _, tokens in meter.batches] == sorted((t for _, t in meter.batches), reverse=True)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
@pytest.mark.parametrize("labels", [False, True])
def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(tiny_folder, toy_tasks, error, labels):
    backbone = load_backbone(str(tiny_folder), "cpu")
    settings = Settings(**TINY, answers="labels" if labels else "generate")
    examples, names = toy_tasks[0].test + toy_tasks[1].test, toy_tasks[1].labels
    learner = Learner(backbone, settings)
    learner.attached.add_lora()
    randomised(learner, 0, 0.3)
    expected = learner.answer(examples, labels=names)
    most = max(len(row.input_ids) for row in learner.feed.encoder.encode(examples)) * 3
    with Meter(backbone.model.get_encoder(), most, error) as meter:
        assert learner.answer(examples, labels=names) == expected
    assert sum(rows for rows, _ in meter.batches) == len(examples)
    assert backbone.limits.tokens < len(examples) * most
    learner.attached.detach()
    later = Learner(backbone, settings)  # another run of the process
    later.attached.add_lora()
    with Meter(backbone.model.get_encoder()) as meter:
        later.answer(examples, labels=names)
    assert max(rows * tokens for rows, tokens in meter.batches) <= most
    later.attached.detach()


def test_a_single_question_that_does_not_fit_is_one_clear_line(make_learner, toy_tasks, backbone):
    learner = make_learner()
    base = next(learner.model.get_encoder().parameters()).clone()
    with (
        Meter(learner.model.get_encoder(), 1, OUT_OF_MEMORY[0]),
        pytest.raises(ClbenchError, match=r"out of memory: a single question of \d+ tokens.*--max-input"),
    ):
        learner.answer(toy_tasks[0].test)
    backbone.limits.tokens = float("inf")  # the backbone is every test's
    assert torch.equal(base, next(learner.model.get_encoder().parameters()))


def test_another_error_is_no_lack_of_memory(make_learner, toy_tasks, backbone):
    learner = make_learner()
    with (
        Meter(learner.model.get_encoder(), 1, RuntimeError("shapes do not match")),
        pytest.raises(RuntimeError, match="shapes"),
    ):
        learner.answer(toy_tasks[0].test)
    assert backbone.limits.tokens == float("inf")


# --- merging and precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_merging_leaves_every_bit_as_it_was_even_after_an_error(tiny_folder, precision):
    backbone = load_backbone(str(tiny_folder), "cpu", precision)
    learner = Learner(backbone, Settings(**TINY))
    learner.attached.add_lora()
    randomised(learner, 0)
    before = {name: (tensor, tensor.clone()) for name, tensor in learner.model.state_dict(keep_vars=True).items()}
    values = learner.model.state_dict()

    def fail():
        with merged(learner.model):
            values.update({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})
            raise KeyError("within")

    with pytest.raises(KeyError, match="within"):
        fail()
    changed = [name for name, (_, copy) in before.items() if not torch.equal(values[name], copy)]
    assert len(changed) == len(learner.weights.views(learner.weights.data)) // 2  # one base weight per A and B
    after = learner.model.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    for name, (tensor, copy) in before.items():
        assert after[name] is tensor
        assert tensor.dtype == copy.dtype
        assert torch.equal(tensor.view(torch.uint8), copy.view(torch.uint8))
    learner.attached.detach()


def test_every_evaluation_computes_in_the_same_precision(tiny_folder, toy_tasks):
    backbone = load_backbone(str(tiny_folder), "cpu", "bfloat16")
    learner = Learner(backbone, Settings(**TINY, epochs=1))
    learner.attached.add_lora()
    learner.begin_task(0)
    found = []

    def ask():
        seen = set()
        watched = [m for name, m in learner.model.named_modules() if name.endswith((".q", ".o", "lm_head"))]
        handles = [m.register_forward_hook(lambda m, _, result: seen.add((type(m), result.dtype))) for m in watched]
        found.append((learner.answer(toy_tasks[0].test), frozenset(seen), learner.model.training))
        for handle in handles:
            handle.remove()

    ask()
    training = learner.training(toy_tasks[0].train)
    for batch in training.take(2):
        training.step(learner.loss(batch))
    learner.weights.assign(torch.zeros_like(learner.weights.data))  # A and B: the answers are the backbone's again
    ask()
    with Meter(learner.model.get_encoder(), 1, KeyError()), pytest.raises(KeyError):
        learner.answer(toy_tasks[0].test)
    ask()
    assert found[0] == found[1] == found[2]
    assert {dtype for _, dtype in found[0][1]} == {torch.bfloat16}
    learner.attached.detach()


# --- labels -------------------------------------------------------------------------------------------------------------


def constrained(learner, examples, labels):
    """Return what `generate` answers when it may write nothing but a label, token by token, unmerged."""
    targets = [row.labels for row in learner.feed.encoder.encode([Example("", "", label, "") for label in labels])]
    starts = learner.model.config.is_encoder_decoder
    answers = []
    for example in examples:
        batch = learner.feed.batch([example])
        length = 1 if starts else batch.input_ids.shape[1]

        def allowed(_, ids, length=length):
            written = ids[length:].tolist()
            return [t[len(written)] for t in targets if t[: len(written)] == written and len(t) > len(written)] or [0]

        learner.model.eval()
        tokens = learner.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            prefix_allowed_tokens_fn=allowed,
            max_new_tokens=max(map(len, targets)),
            do_sample=False,
        )[0, length:].tolist()
        found = [label for label, target in zip(labels, targets, strict=True) if tokens[: len(target)] == target]
        assert len(found) == 1
        answers += found
    return answers


def random_labels(seed):
    """Return labels that share beginnings, are beginnings of one another, or are single letters."""
    draw = random.Random(seed)
    word = lambda: "".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 6)))  # noqa: E731
    stems = [" ".join(word() for _ in range(draw.randint(1, 4))) for _ in range(3)]
    labels = [*stems, *draw.choices(string.ascii_uppercase, k=2)]
    labels += [f"{stem} {word()}" for stem in stems for _ in range(2)]
    labels += [label + word() for label in labels[:3]]
    labels = list(dict.fromkeys(labels))
    draw.shuffle(labels)
    return labels


def test_labels_are_what_constrained_greedy_decoding_gives(make_learner, toy_tasks):
    learner, examples = make_learner(max_target=64, answers="labels"), toy_tasks[0].test + toy_tasks[1].test
    kinds = set()
    for seed in range(6):
        labels = random_labels(seed)
        expected = constrained(randomised(learner, seed), examples, labels)
        kinds |= {(seed, answer) for answer in expected}
        assert learner.answer(examples, labels=labels) == expected
        assert learner.answer(examples[::-1], labels=labels[::-1]) == expected[::-1]
    assert len(kinds) > 12
    assert {len(answer) > 1 for _, answer in kinds} == {True, False}


@pytest.mark.parametrize("method", ["inclora", "moelora", "sapt", "l2p", "lfpt5"])
def test_gates_and_prompts_act_on_labels_as_on_free_answers(make_learner, toy_tasks, method):
    found = EXAMPLE_PLUGINS.method(method)
    instance = found.build(found.resolve_options({"prompt_length": "20"} if method == "lfpt5" else {}))
    learner = make_learner(instance.attach, max_target=64, answers="labels", stream_length=3)
    examples = toy_tasks[0].test[:3] + toy_tasks[1].test[:3]
    words = sorted({word for task in toy_tasks for row in task.train for word in row.passage.split()})
    labels = [*words, *(" ".join(pair) for pair in itertools.pairwise(words))]  # many: some are close to one another
    found = set()
    for seed in range(3):
        expected = constrained(randomised(learner, seed, 3.0), examples, labels)
        assert learner.answer(examples, labels=labels) == expected
        found.add(tuple(expected))
    assert len(found) > 1 or method in ("l2p", "lfpt5")  # soft prompts hardly move so small a model


def test_a_label_that_begins_another_and_a_single_one(make_learner, toy_tasks):
    learner = make_learner(max_target=64, answers="labels")
    examples, labels, chosen = toy_tasks[0].test, ("a", "a b", "a b c"), set()
    for seed in range(8):
        answers = randomised(learner, seed).answer(examples, labels=labels)
        assert answers == constrained(learner, examples, labels)
        chosen |= set(answers)
    assert len(chosen) > 1
    assert learner.answer(examples, labels=("only this",)) == ["only this"] * len(examples)


def test_the_trie_of_three_labels_by_hand(make_learner):
    learner = make_learner()
    trie = learner.asker.trie(["x", "y"])
    x, y, end = learner.tokenizer("x")["input_ids"][0], learner.tokenizer("y")["input_ids"][0], 1
    assert trie.tokens.tolist() == sorted([x, y, end])
    assert trie.depth == 1
    assert trie.decided.tolist() == ([-1, 0, 1] if x < y else [-1, 1, 0])

    trie = LabelTrie(["A", "B", "C"], [[5, 1], [5, 7, 1], [6, 7, 5, 1]], torch.device("cpu"))
    assert trie.tokens.tolist() == [1, 5, 6, 7]
    assert trie.next.tolist() == [[-1, 1, 2, -1], [3, -1, -1, 4], [2] * 4, [3] * 4, [4] * 4]
    assert trie.decided.tolist() == [-1, -1, 2, 0, 1]
    assert trie.depth == 2


def test_a_decided_label_takes_no_further_pass(make_learner, toy_tasks):
    learner = make_learner(answers="labels", max_target=64)
    with Meter(learner.model.get_decoder()) as meter:
        learner.answer(toy_tasks[1].test, labels=("World news of today", "Sports and much more", "Business as usual"))
    assert meter.batches == [(len(toy_tasks[1].test), 1)]


def test_labels_of_the_same_tokens_are_refused(make_learner, toy_tasks):
    learner = make_learner(answers="labels", max_target=4)
    with pytest.raises(ClbenchError, match=r"labels 'qzqz one' and 'qzqz two' are the same tokens.*--answers generate"):
        learner.asker.answer(toy_tasks[0].test, ["other", "qzqz one", "qzqz two"])


def test_labels_are_used_only_where_there_are_some_and_the_setting_says_so(make_learner, toy_tasks):
    task = toy_tasks[1]
    free = make_learner().answer(task.test)
    assert not set(free) & set(task.labels)  # an untrained model knows none
    assert make_learner().answer(task.test, labels=task.labels) == free
    learner = make_learner(answers="labels")
    assert learner.answer(task.test) == free
    assert set(learner.answer(task.test, labels=task.labels)) <= set(task.labels)


def test_the_repetition_penalty_passes_over_what_may_repeat():
    scores = torch.tensor([[2.0, -2.0, 2.0, 2.0]])
    said = torch.tensor([[0, 3, 1, 2]])  # the first is the prompt's
    penalised = RepetitionPenalty(1, 4.0, repeatable=[2])(said, scores)
    assert penalised.tolist() == [[2.0, -8.0, 2.0, 0.5]]
    assert RepetitionPenalty(0, 4.0)(said, scores).tolist() == [[0.5, -8.0, 0.5, 0.5]]


def test_the_tokens_of_a_text_may_repeat(make_learner, toy_tasks):
    learner, question = make_learner(), toy_tasks[0].test[:1]
    free = learner.answer(question, max_answer=8)[0]
    assert len(set(learner.tokenizer(free, add_special_tokens=False)["input_ids"])) < 8, "the tiny model repeats itself"
    assert learner.answer(question, max_answer=8, sampling=Sampling(1, 1e6)) != [free]
    assert learner.answer(question, max_answer=8, sampling=Sampling(1, 1e6, free)) == [free]


@pytest.mark.parametrize("maker", ["make_learner", "make_decoder"])
def test_probabilities_are_those_of_whole_labels_among_the_labels(maker, toy_tasks, request):
    learner = randomised(request.getfixturevalue(maker)(), 3)
    rows, labels = toy_tasks[1].test, toy_tasks[1].labels
    found = learner.asker.probabilities(rows, labels)
    assert [len(row) for row in found] == [len(labels)] * len(rows)
    for row, chances in zip(rows, found, strict=True):
        likelihoods = []
        for label in labels:
            batch = learner.feed.batch([replace(row, target=label)])  # closed by the end token
            with torch.no_grad():
                scores = learner.passes.logits(batch).softmax(-1)[0]
            likelihoods.append(scores[range(len(batch.labels[0])), batch.labels[0]].prod().item())
        assert chances == pytest.approx([one / sum(likelihoods) for one in likelihoods], abs=1e-4)
    assert max(max(row) for row in found) > 1.5 / len(labels)  # they say something
