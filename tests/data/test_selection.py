"""Which rows a run takes: the validation set, rows per class, what is left out."""

from collections import Counter

import pytest

from clbench.data.rows import Row
from clbench.data.sources import Selection, Source, fingerprint, fingerprint_questions, make_tasks
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from clbench.settings import Settings


def source(rows: int = 100, train_rows: int | None = None, test_per_class: int | None = None) -> Source:
    """A source of sst-2 rows, four Good to one Bad; every tenth training question stands there twice."""

    def read(spec, split):
        number = range(rows)
        texts = [f"Text: {split} {i - (split == 'train' and i % 10 == 1)}" for i in number]
        return [Row(text, ("Bad" if i % 5 == 0 else "Good",), f"{split}: row {i}", i) for i, text in enumerate(texts)]

    return Source(read, train_rows, test_per_class)


def task_of(selection: Selection, **of_source):
    return make_tasks(source(**of_source), find_stream("sst-2"), selection)[0]


def test_validation_is_carved_out_of_train_balanced_and_never_trained_on():
    task = task_of(Selection(validation=20))
    assert Counter(example.target for example in task.validation) == {"Good": 10, "Bad": 10}
    assert all("train" in example.passage for example in task.validation)
    trained = {example.passage for example in task.train}
    assert not trained & {example.passage for example in task.validation}  # nor the twins of its rows
    assert len(trained | {example.passage for example in task.validation}) == 90
    assert all("test" in example.passage for example in task.test)
    assert task.test


def test_validation_is_the_same_for_every_seed_and_limit():
    first = task_of(Selection(validation=20, seed=1, limit_train=30))
    second = task_of(Selection(validation=20, seed=2))
    assert first.validation == second.validation
    assert len(first.train) == 30
    assert set(first.train) <= set(second.train)


def test_a_run_can_be_scored_on_validation_and_then_never_sees_test():
    task = task_of(Selection(validation=20, evaluate_on="validation"))
    assert task.test == task.validation
    plain = task_of(Selection())
    assert fingerprint_questions([task]) != fingerprint_questions([plain])
    assert fingerprint([task]) != fingerprint([task_of(Selection(validation=20))])


def test_an_example_is_named_by_its_row_whatever_rows_are_taken():
    for evaluate_on, read in (("validation", "train"), ("test", "test")):
        task = task_of(Selection(limit_train=30, limit_test=10, validation=20, evaluate_on=evaluate_on))
        for split, rows in (("train", task.train), ("train", task.validation), (read, task.test)):
            numbers = [int(row.id.removeprefix(f"{split}:")) for row in rows]
            texts = [f"Text: {split} {i - (split == 'train' and i % 10 == 1)}" for i in numbers]
            assert [row.passage for row in rows] == texts
            assert len(set(numbers)) == len(rows)


def test_evaluating_on_validation_needs_one():
    with pytest.raises(ClbenchError, match="needs --validation N"):
        Settings(evaluate_on="validation")


@pytest.mark.parametrize("rows", [100, 500])
def test_a_validation_set_that_leaves_nothing_is_refused(rows):
    with pytest.raises(ClbenchError, match=f"--validation {rows} leaves nothing of its 100 training rows"):
        task_of(Selection(validation=rows))


def test_rows_per_class():
    task = task_of(Selection(train_per_class=15))
    assert Counter(example.target for example in task.train) == {"Good": 15, "Bad": 15}
    assert Counter(example.target for example in task_of(Selection(train_per_class=40)).train) == {
        "Good": 40,
        "Bad": 20,
    }
    both = task_of(Selection(train_per_class=15, limit_train=10))
    assert Counter(example.target for example in both.train) == {"Good": 5, "Bad": 5}


def test_the_cuts_of_a_source_apply_where_none_are_asked_for():
    cuts = {"train_rows": 50, "test_per_class": 10}
    task = task_of(Selection(), **cuts)
    assert len(task.train) == 50
    assert Counter(example.target for example in task.test) == {"Good": 10, "Bad": 10}
    assert len(task_of(Selection(limit_train=70, limit_test=30), **cuts).train) == 70
    assert len(task_of(Selection(limit_train=70, limit_test=30), **cuts).test) == 30
    assert len(task_of(Selection(train_per_class=20), **cuts).train) == 40


def test_rows_without_question_or_label_are_left_out():
    rows = [Row("a", ("neutral",)), Row(" ", ("neutral",)), Row("b", ("-",)), Row("c", ("entailment",))]
    (task,) = make_tasks(Source(lambda spec, split: rows), find_stream("mnli"), Selection())
    assert [example.passage for example in task.test] == ["a", "c"]
    with pytest.raises(ClbenchError, match="no row has both a question and an answer"):
        make_tasks(Source(lambda spec, split: rows[1:3]), find_stream("mnli"), Selection())
