"""LFPT5: the numeric properties of its specification, with the real method."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from clbench.answering.asker import Sampling
from clbench.data.tasks import Example
from clbench.plugins.lfpt5 import ANSWER_ROOM, LFPT5, parse

LABELS = ["world", "sports"]


def attached(make_learner, settings=None, **options):
    method = LFPT5(**{"prompt_length": 12, **options})
    return method, make_learner(method.attach, **(settings or {}))


class Scripted:
    """A learner that writes the given texts, over and over, and notes what it was asked; all else is the learner's own.

    Attributes:
        asked: the examples and the arguments of each call to write.
        scores: of each call of `passes.logits` the teacher, what it was then (both None for the student), and the scores.
        losses: the weights at each call of `loss`.
    """

    def __init__(self, learner, *texts):
        self._learner, self._texts = learner, texts
        self.passes = SimpleNamespace(logits=self._logits)
        self.asked, self.scores, self.losses = [], [], []

    def __getattr__(self, name):
        return getattr(self._learner, name)

    def answer(self, examples, **drawn):
        self.asked.append((examples, drawn))
        return [self._texts[i % len(self._texts)] for i in range(len(examples))]

    def _logits(self, batch, weights=None):
        found = self._learner.passes.logits(batch, weights)
        self.scores.append((weights, None if weights is None else weights.clone(), found.detach()))
        return found

    def loss(self, batch):
        self.losses.append(self._learner.weights.copy())
        return self._learner.loss(batch)

    def learn(self, method, *tasks):
        """Learn the tasks in order and return the reports."""
        reports = []
        for index, task in enumerate(tasks):
            self._learner.begin_task(index, task)
            reports.append(method.learn_task(self, task))
        return reports

    @property
    def teachers(self):
        """Of each teacher's pass: the vector, and what it was then."""
        return [(weights, then) for weights, then, _ in self.scores if weights is not None]


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


def test_the_teacher_is_the_prompt_as_the_task_began(make_learner, toy_tasks):
    method, learner = attached(make_learner, {"epochs": 2}, kd_weight=0.5)
    scripted = Scripted(learner, f"some text __ans__ {toy_tasks[0].labels[0]}")
    scripted.learn(method, toy_tasks[0])
    assert scripted.teachers == []  # it is asked for written rows only
    began = learner.weights.copy()
    learner.begin_task(1, toy_tasks[1])
    report = method.learn_task(scripted, toy_tasks[1])
    assert report["written"] == 2
    assert len(scripted.teachers) >= 2
    assert not torch.equal(learner.weights.data, began)
    for teacher, then in scripted.teachers:
        assert torch.equal(then, began)
        assert torch.equal(teacher, began)


def test_without_written_rows_no_teacher_runs(make_learner, toy_tasks):
    method, learner = attached(make_learner, kd_weight=0.5)
    scripted = Scripted(learner, "nothing that counts")
    assert [report["written"] for report in scripted.learn(method, *toy_tasks)] == [0, 0]
    assert len(scripted.asked) > 0
    assert scripted.scores == []


def test_at_most_so_many_rows_a_class_and_within_the_budget(make_learner):
    method, learner = attached(make_learner, pseudo_per_class=2, samples_per_class=20)
    scripted = Scripted(
        learner, *(f"text {i} __ans__ {label}" for i in range(9) for label in LABELS[:1]), "x __ans__ y"
    )
    about = {"name": "t", "labels": LABELS, "head": "H: ", "tail": "\nAnswer:", "max_answer": 32}
    rows = method.write(scripted, about)
    assert [(row.prompt, row.target) for row in rows] == [
        ("H: text 0\nAnswer:", "world"),
        ("H: text 1\nAnswer:", "world"),
    ]
    assert sum(len(examples) for examples, _ in scripted.asked) == 2 * 20  # 'sports' was never found
    assert scripted.asked[0][1] == {
        "sampling": Sampling(64, 2.5, " __ans__"),
        "max_answer": 128 + ANSWER_ROOM,
    }


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


def lesson_loss(method, learner, names, rows):
    """The loss of writing rows of the tasks with these names."""
    lessons = [method.lesson(learner, name, row) for name, row in zip(names, rows, strict=True)]
    return learner.loss(learner.feed.batch(lessons)).item()


@pytest.mark.parametrize(("kd_weight", "lm_weight"), [(0.0, 0.25), (0.3, 0.25), (0.3, 2.0), (1.0, 0.25)])
def test_the_loss_is_the_weighted_sum(kd_weight, lm_weight, make_learner, toy_tasks):
    method, learner = attached(make_learner, {"batch_size": 64}, kd_weight=kd_weight, lm_weight=lm_weight)
    first, rows = toy_tasks[0], toy_tasks[0].train
    learner.attached.parts["prompt"].start(learner, ["sentence classification", first.name, *first.labels])
    solve, write = learner.loss(learner.feed.batch(rows)).item(), lesson_loss(method, learner, [first.name] * 24, rows)
    assert method.lesson(learner, first.name, rows[0]).target.endswith(f"__ans__ {rows[0].target}")
    learner.begin_task(0, first)
    report = method.learn_task(learner, first)
    assert report["steps"] == 1
    assert report["loss"] == pytest.approx((1 - kd_weight) * (solve + lm_weight * write), rel=1e-5)


def test_the_loss_of_a_batch_with_written_rows(make_learner, toy_tasks):
    """By hand: both losses are on all rows, the divergence on the written ones, per batch of 2."""
    first, second = toy_tasks
    settings = {"batch_size": 64, "epochs": 2}  # of each task's two steps the second is away from the teacher
    options = {"kd_weight": 0.9, "lm_weight": 0.25, "pseudo_per_class": 1, "learning_rate": 3.0}
    method, learner = attached(make_learner, settings, **options)
    scripted = Scripted(learner, *(f"text {label} __ans__ {label}" for label in first.labels))
    scripted.learn(method, first)
    teacher = learner.weights.copy()
    learner.begin_task(1, second)
    scripted.losses.clear()
    report = method.learn_task(scripted, second)
    old = [replace(first.train[0], passage=f"text {label}", target=label, references=()) for label in first.labels]
    assert report["written"] == len(old) == 2
    assert report["steps"] == 2
    rows, names = [*second.train, *old], [second.name] * len(second.train) + [first.name] * 2
    expected, pulls = [], []
    for weights in scripted.losses[::2]:  # of solving; writing follows
        learner.weights.assign(weights)
        pulls.append(0.9 * method.divergence(learner, old, teacher).item() * 2 / len(rows))
        solve, write = learner.loss(learner.feed.batch(rows)).item(), lesson_loss(method, learner, names, rows)
        expected.append(0.1 * (solve + 0.25 * write) + pulls[-1])
    assert pulls[0] == pytest.approx(0, abs=1e-6)
    assert pulls[1] > 3e-3 * expected[1]  # so that it is seen
    assert report["loss"] == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_the_next_task_goes_on_with_the_prompt(make_learner, toy_tasks):
    method, learner = attached(make_learner, learning_rate=1e-12)
    scripted = Scripted(learner, "nothing that counts")
    scripted.learn(method, toy_tasks[0])
    learner.weights.data.add_(1.0)
    before = learner.weights.copy()
    learner.begin_task(1, toy_tasks[1])
    method.learn_task(scripted, toy_tasks[1])
    assert torch.allclose(learner.weights.data, before, atol=1e-6)


def test_the_teacher_has_no_dropout(make_learner, toy_tasks, monkeypatch):
    method, learner = attached(make_learner)
    for module in learner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            monkeypatch.setattr(module, "p", 0.5)  # the tiny model, which all tests share, has none
    learner.passes.train_mode()
    scripted = Scripted(learner)
    for _ in range(2):
        method.divergence(scripted, toy_tasks[0].train[:4], learner.weights.copy())
    students = [scores for teacher, _, scores in scripted.scores if teacher is None]
    teachers = [scores for teacher, _, scores in scripted.scores if teacher is not None]
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
