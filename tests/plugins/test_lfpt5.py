"""LFPT5: the numeric properties of its specification, with the real method."""

from dataclasses import replace

import pytest
import torch
from clbench.plugins.lfpt5 import ANSWER_ROOM, LFPT5, parse

from clbench.answering.asker import Sampling
from clbench.data.tasks import Example
from clbench.learning.learner import Learner
from clbench.learning.passes import Passes

LABELS = ["world", "sports"]


def attached(make_learner, settings=None, **options):
    method = LFPT5(**{"prompt_length": 12, **options})
    return method, make_learner(method.attach, **(settings or {}))


def writes(monkeypatch, *texts):
    """Let the learner write these texts, over and over, and return what it was asked."""
    asked = []
    answer = Learner.answer

    def scripted(self, examples, **drawn):
        if not drawn:
            return answer(self, examples)
        asked.append((examples, drawn))
        return [texts[i % len(texts)] for i in range(len(examples))]

    monkeypatch.setattr(Learner, "answer", scripted)
    return asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a __ans__ world", ("a", "world")),
        ("a world", None),
        ("a __ans__ b __ans__ world", None),
        ("a __ans__ unknown", None),
        (" __ans__ world", None),
        ("a __ans__ ", None),
    ],
)
def test_what_is_kept_of_the_written_rows(text, expected):
    assert parse(text, LABELS) == expected


def test_free_text_needs_no_label():
    assert parse("a __ans__ any words", []) == ("a", "any words")


def test_the_divergence_is_zero_at_the_teacher_and_above_it_elsewhere(make_learner, toy_tasks):
    method, learner = attached(make_learner)
    rows, teacher = toy_tasks[1].train[:8], learner.weights.copy()
    assert (learner.feed.batch(rows).labels == -100).any()
    learner.model.eval()
    assert method.divergence(learner, rows, teacher).item() == pytest.approx(0, abs=1e-6)
    learner.weights.data.add_(0.5 * torch.randn(len(teacher), generator=torch.Generator().manual_seed(0)))
    divergence = method.divergence(learner, rows, teacher)
    assert divergence.item() > 1e-3
    assert divergence.item() == pytest.approx(
        sum(method.divergence(learner, [row], teacher).item() for row in rows), rel=1e-4
    )  # a sum over rows, in which padded targets do not count
    assert divergence.requires_grad
    learner.weights.zero_grad()
    learner.passes.backward(divergence)
    assert learner.weights.grad.any()
    assert all(p.grad is None for name, p in learner.model.named_parameters() if not name.startswith("prompt."))


def test_the_teacher_stays_as_it_was_and_is_no_alias(make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner, kd_weight=0.5)
    teachers = []
    divergence = LFPT5.divergence

    def spy(self, learner, rows, teacher):
        teachers.append((teacher, teacher.clone(), list(rows)))
        return divergence(self, learner, rows, teacher)

    monkeypatch.setattr(LFPT5, "divergence", spy)
    label = toy_tasks[0].labels[0]
    writes(monkeypatch, f"some text __ans__ {label}")
    for index, task in enumerate(toy_tasks):
        learner.begin_task(index, task)
        method.learn_task(learner, task)
    assert teachers  # none in task 1: it is asked for written rows only
    for teacher, then, rows in teachers:
        assert torch.equal(teacher, then)
        assert teacher.data_ptr() != learner.weights.data.data_ptr()
        assert {row.passage for row in rows} == {"some text"}


def test_without_written_rows_no_teacher_runs(make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner, kd_weight=0.5)
    writes(monkeypatch, "nothing that counts")
    monkeypatch.setattr(LFPT5, "divergence", lambda *_: pytest.fail("the teacher ran"))
    reports = []
    for index, task in enumerate(toy_tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    assert [report["written"] for report in reports] == [0, 0]


def test_at_most_so_many_rows_a_class_and_within_the_budget(make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner, pseudo_per_class=2, samples_per_class=20)
    asked = writes(monkeypatch, *(f"text {i} __ans__ {label}" for i in range(9) for label in LABELS[:1]), "x __ans__ y")
    about = {"name": "t", "labels": LABELS, "head": "H: ", "tail": "\nAnswer:", "max_answer": 32}
    rows = method.write(learner, about)
    assert [(row.prompt, row.target) for row in rows] == [
        ("H: text 0\nAnswer:", "world"),
        ("H: text 1\nAnswer:", "world"),
    ]
    assert sum(len(examples) for examples, _ in asked) == 2 * 20  # 'sports' was never found
    assert asked[0][1] == {"sampling": Sampling(64, 2.5, " __ans__"), "max_answer": 128 + ANSWER_ROOM}


def test_the_prompt_is_all_that_is_trained(make_learner):
    _, learner = attached(make_learner, prompt_length=300)
    assert len(learner.weights) == 300 * 32  # 307,200 where the width is 1024


def test_the_prompt_starts_from_the_first_tasks_words(make_learner, toy_tasks):
    method, learner = attached(make_learner, lm_weight=0.0, learning_rate=1e-12)
    random = learner.attached.parts["prompt"].vectors.detach().clone()
    learner.begin_task(0, toy_tasks[0])
    method.learn_task(learner, toy_tasks[0])
    vectors, table = learner.attached.parts["prompt"].vectors, learner.model.get_input_embeddings().weight
    texts = ["sentence classification", toy_tasks[0].name, *toy_tasks[0].labels]
    for number, text in enumerate(texts):
        ids = learner.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert torch.allclose(vectors[number], table[ids].mean(0), atol=1e-6)
    assert torch.allclose(vectors[len(texts) :], random[len(texts) :], atol=1e-6)


@pytest.mark.parametrize(("kd_weight", "lm_weight"), [(0.0, 0.25), (0.3, 0.25), (1.0, 0.25)])
def test_the_loss_is_the_weighted_sum(kd_weight, lm_weight, make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner, kd_weight=kd_weight, lm_weight=lm_weight)
    monkeypatch.setattr(LFPT5, "write", lambda *_: ())
    taken = []
    step = type(learner.training(toy_tasks[0].train)).step
    monkeypatch.setattr(
        "clbench.learning.training.Training.step", lambda self, loss: (taken.append(loss.item()), step(self, loss))
    )
    learner.begin_task(0, toy_tasks[0])
    other, before = method.lesson(learner, toy_tasks[0].name, toy_tasks[0].train[0]), learner.weights.copy()
    method.learn_task(learner, toy_tasks[0])
    assert other.target.endswith(f"__ans__ {toy_tasks[0].train[0].target}")
    assert not torch.equal(before, learner.weights.data)
    fresh, learner2 = attached(make_learner, kd_weight=kd_weight, lm_weight=lm_weight)
    learner2.begin_task(0, toy_tasks[0])
    learner2.attached.parts["prompt"].start(
        learner2, ["sentence classification", toy_tasks[0].name, *toy_tasks[0].labels]
    )
    first = next(iter(learner2.training(toy_tasks[0].train)))
    rows = [toy_tasks[0].train[i] for i in first.rows]
    write = learner2.loss(learner2.feed.batch([fresh.lesson(learner2, toy_tasks[0].name, row) for row in rows])).item()
    assert taken[0] == pytest.approx((1 - kd_weight) * (learner2.loss(first).item() + lm_weight * write), rel=1e-5)


def test_the_loss_of_a_batch_with_written_rows(make_learner, toy_tasks, monkeypatch):
    """By hand: both losses are on all rows, the divergence on the written ones, per batch of 2."""
    first, second = toy_tasks
    method, learner = attached(make_learner, {"batch_size": 64}, kd_weight=0.9, lm_weight=0.25, pseudo_per_class=1)
    written = [f"text {label} __ans__ {label}" for label in first.labels]
    writes(monkeypatch, *written)
    learner.begin_task(0, first)
    method.learn_task(learner, first)
    noise = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0))
    teacher = learner.weights.copy() + 3 * noise  # a student elsewhere, or the divergence is 0
    monkeypatch.setattr(learner.weights, "copy", lambda: teacher)
    learner.begin_task(1, second)
    taken = []
    monkeypatch.setattr("clbench.learning.training.Training.step", lambda self, loss: taken.append(loss.item()))
    report = method.learn_task(learner, second)
    old = [replace(first.train[0], passage=f"text {label}", target=label, references=()) for label in first.labels]
    assert report["written"] == len(old) == 2
    rows = [*second.train, *old]
    names = [second.name] * len(second.train) + [first.name] * 2
    solve = learner.loss(learner.feed.batch(rows)).item()
    write = learner.loss(
        learner.feed.batch([method.lesson(learner, *pair) for pair in zip(names, rows, strict=True)])
    ).item()
    divergence = method.divergence(learner, old, teacher).item()
    expected = 0.1 * (solve + 0.25 * write) + 0.9 * divergence * 2 / len(rows)
    assert 0.9 * divergence / len(rows) > 1e-3 * expected  # so that it is seen
    assert taken == pytest.approx([expected], rel=1e-4)


def test_the_next_task_goes_on_with_the_prompt_and_the_teacher_has_no_dropout(make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner, learning_rate=1e-12)
    writes(monkeypatch, "nothing that counts")
    for index, task in enumerate(toy_tasks):
        if index == 1:
            learner.weights.data.add_(1.0)
            before = learner.weights.copy()
        learner.begin_task(index, task)
        method.learn_task(learner, task)
    assert torch.allclose(learner.weights.data, before, atol=1e-6)
    for module in learner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            monkeypatch.setattr(module, "p", 0.5)
    learner.passes.train_mode()
    rows, targets, logits = toy_tasks[0].train[:4], [], Passes.logits

    def kept(self, batch, weights=None):
        found = logits(self, batch, weights)
        targets.append((weights is not None, found.detach()))
        return found

    monkeypatch.setattr(Passes, "logits", kept)
    for _ in range(2):
        method.divergence(learner, rows, learner.weights.copy())
    students, teachers = ([found for is_teacher, found in targets if is_teacher == asked] for asked in (False, True))
    assert torch.equal(*teachers)
    assert not torch.equal(*students)
    assert learner.model.training


def test_a_long_passage_is_cut_and_its_label_kept(make_learner):
    method, learner = attached(make_learner, {"max_target": None, "max_answer": None}, write_length=5)
    lesson = method.lesson(learner, "t", Example("H: ", "one two three four five six seven eight nine", "world"))
    assert lesson.prompt == "generate t"
    assert lesson.target.endswith(" __ans__ world")
    text = lesson.target.removesuffix(" __ans__ world")
    assert "one two three four five six seven eight nine".startswith(text)
    assert len(learner.tokenizer(text, add_special_tokens=False)["input_ids"]) == 5


def test_a_batch_knows_the_positions_of_its_rows(make_learner, toy_tasks):
    learner = make_learner(micro_batch=3)
    seen = []
    for batch in learner.training(toy_tasks[0].train):
        expected = learner.feed.batch([toy_tasks[0].train[i] for i in batch.rows])
        assert torch.equal(expected.input_ids, batch.input_ids)
        seen += batch.rows
        learner.phase.step(learner.loss(batch))
    assert sorted(seen) == list(range(len(toy_tasks[0].train)))


def test_an_answer_does_not_depend_on_its_neighbours(make_learner, toy_tasks):
    _, learner = attached(make_learner, {"max_answer": 8})
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(4)
    examples = [*toy_tasks[1].test, *(replace(row, passage=row.passage * 2) for row in toy_tasks[0].test)]
    together = learner.answer(examples)
    assert len(set(together)) > 1
    assert together == [learner.answer([example])[0] for example in examples]
    assert together == learner.answer(examples[::-1])[::-1]
