"""Forgetting explained, by hand from small records; and lost questions asked again, through the real command."""

import json

import msgspec
import pytest

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from clbench.records.answers import AnswerRow, answers_path, read_answers, scores_of
from clbench.records.files import read_record
from clbench.records.record import encode_record
from clbench.reports.forgetting import explain, explanation_sheets
from clbench.running.saved_learner import load_learner
from tests.cli.test_bad_input import expect_error
from tests.conftest import REFERENCE
from tests.records.examples import record

MOODS, TOPICS = ("Good", "Bad"), ("World", "Sports", "Good")  # a label of both
TASKS = {"mood": MOODS, "topic": TOPICS, "colour": ("Red", "Blue")}
# The answers to four questions of `mood`, whose right answer is Good, after each of the three tasks.
MOOD = [
    ["Good", "good.", "Good", "Bad"],
    ["World", "Good", "", "Bad"],
    ["red", "Bad", "what", "Good"],
]
TOPIC = [["Sports", "Sports"], ["sports", "Good"]]  # right answer: Sports


def write(folder, answers, tasks=TASKS, metric="exact_match", target=None, **fields):
    """Write a record with answers by (after, task); return its path."""
    names = list(tasks)
    scores = [[0.0 if (i, j) in answers else None for j in range(len(names))] for i in range(len(names))]
    infos = [{"name": name, "version": 1, "metric": metric, "labels": labels} for name, labels in tasks.items()]
    content = {"name": "r", "tasks": infos, "scores": scores, **fields}
    rows = [
        AnswerRow(
            after=i,
            task=names[j],
            row=row,
            answer=text,
            target=target or ("Good", "Sports", "Red")[j],
            id=f"test:{7 + row}",
        )
        for (i, j), texts in answers.items()
        for row, text in enumerate(texts)
    ]
    path = folder / "r.json"
    path.write_bytes(encode_record(record(op=0.0, fields=content)))
    answers_path(path).write_bytes(msgspec.json.Encoder().encode_lines(rows))
    return path


def explained(path):
    return explain(read_record(path), read_answers(read_record(path), answers_path(path)))


LOWER = {(i, 0): MOOD[i] for i in range(3)} | {(i + 1, 1): TOPIC[i] for i in range(2)} | {(2, 2): ["Red"]}


def test_each_lost_question_by_hand(tmp_path):
    mood, topic = explained(write(tmp_path, LOWER)).tasks
    assert (mood.task, mood.asked, mood.right, mood.gained, mood.labels) == ("mood", 4, 3, 1, 2)
    found = [(q.row, q.id, q.answer, q.kind, q.of, q.by) for q in mood.lost]
    assert found == [
        (0, "test:7", "red", "other task", "colour", "topic"),  # lost by topic, though colour gave the answer
        (1, "test:8", "Bad", "own label", None, "colour"),
        (2, "test:9", "what", "free text", None, "topic"),
    ]
    assert [(q.answer, q.kind, q.by) for q in topic.lost] == [
        ("Good", "own label", "colour")
    ]  # a label of mood, and its own


def test_a_question_that_came_back_is_lost_by_the_task_after_which_it_stayed_lost(tmp_path):
    tasks = {"w": ("a", "b"), "x": ("c", "d"), "y": ("c", "e"), "z": ("f", "g")}
    answers = {(0, 0): ["a"], (1, 0): ["b"], (2, 0): ["a"], (3, 0): ["c"]}
    (only,) = explained(write(tmp_path, answers, tasks, target="a")).tasks
    assert [(q.kind, q.of, q.by) for q in only.lost] == [("other task", "y", "z")]  # of x and y the one learned last


def test_who_took_a_question_is_known_only_where_the_answers_before_and_after_are_stored(clbench, tmp_path):
    few = {cell: texts for cell, texts in LOWER.items() if cell != (1, 0)}
    found = explained(write(tmp_path, few))
    assert [q.by for q in found.tasks[0].lost] == [None] * 3
    assert [q.by for q in found.tasks[1].lost] == ["colour"]
    (sheet,) = explanation_sheets(found, "t")
    assert "`--matrix lower`" in sheet.notes[-1]
    result = clbench("explain", write(tmp_path, LOWER), "--format", "md")
    assert "| mood | 3 | 3 | 1 | 1 | 1 | 1 | colour |" in result.output
    assert "| Task | topic | colour |" in result.output
    assert "| mood | 2 | 1 |" in result.output


def test_the_values_as_json_and_csv(clbench, tmp_path):
    path = write(tmp_path, LOWER)
    mood = json.loads(clbench("explain", path, "--format", "json").output)[0]
    assert {name: mood[name] for name in ("lost", "gained", "other_task", "own_label", "free_text", "still_known")} == {
        "lost": 3, "gained": 1, "other_task": 1, "own_label": 1, "free_text": 1, "still_known": None,
    }  # fmt: skip
    assert (mood["labels_of"], mood["lost_by"], mood["by_chance"]) == ({"colour": 1}, {"topic": 2, "colour": 1}, 1.5)
    assert [question["id"] for question in mood["questions"]] == ["test:7", "test:8", "test:9"]
    lines = clbench("explain", path, "--format", "csv").output.splitlines()
    assert lines[0] == "task,asked,right,gained,lost,other_task,own_label,free_text,still_known,by_chance"
    assert lines[1] == "mood,4,3,1,3,1,1,1,,1.5"


def test_tasks_that_tell_nothing_are_named(clbench, tmp_path):
    some = explained(write(tmp_path, LOWER, {**TASKS, "topic": ()}))
    assert [one.task for one in some.tasks] == ["mood"]
    assert some.left_out == ["topic: free text has no labels"]
    end = {(2, j): texts for j, texts in enumerate([MOOD[2], TOPIC[1], ["Red"]])}
    error = clbench("explain", write(tmp_path, end))
    expect_error(
        error, "tell nothing of forgetting (mood: not asked right after learning it, or not at the end; topic: not"
    )


def test_labels_of_an_old_record_are_the_right_answers_of_its_questions():
    (path,) = REFERENCE.glob("standard-1_seqlora*_s1_*.json")
    found = explained(path)
    assert [(one.task, one.labels) for one in found.tasks] == [("dbpedia", 14), ("amazon", 5), ("yahoo", 10)]
    scores = read_record(path).scores
    for number, one in enumerate(found.tasks):
        assert one.right / 5 == pytest.approx(scores[number][number])  # of 500
        assert (one.right - len(one.lost) + one.gained) / 5 == pytest.approx(scores[-1][number])


def test_scores_of_a_metric_that_is_not_known_are_the_stored_ones(tmp_path):
    path = write(tmp_path, LOWER, metric="mine")
    with pytest.raises(ClbenchError, match="no metric 'mine'"):
        explained(path)
    lines = [json.loads(line) for line in answers_path(path).read_text().splitlines()]
    text = "".join(json.dumps({**line, "score": 100.0 * (line["answer"] != "what")}) + "\n" for line in lines)
    answers_path(path).write_text(text)
    (mood, _) = explained(path).tasks
    assert [question.row for question in mood.lost] == [2]
    cells = read_answers(read_record(path), answers_path(path))
    assert scores_of(cells[2, 0], "mine") == [100, 100, 0, 100]
    assert scores_of(cells[2, 0], "exact_match") == [0, 0, 0, 100]  # a known one is computed


def test_lost_questions_are_asked_again_among_the_labels(clbench, tiny_run, tmp_path):
    words = [
        "--method",
        "seqlora",
        "--stream",
        "sst-2,agnews",
        "--epochs",
        "25",
        "--learning-rate",
        "0.03",
        "--save-adapter",
    ]
    result = clbench(*tiny_run, *words, "--limit-test", "40", "--max-answer", "8")
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "results").glob("*.json")
    (before,) = explained(path).tasks
    assert len(before.lost) > 3
    result = clbench("explain", path.stem, "--ask-again", "--format", "json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.output)
    task = load_tasks("toy", find_stream("sst-2,agnews"), 16, 40, 1)[0]
    answers = load_learner(path.with_suffix(".adapter"), answers="labels").answer(task.test, task.labels, "sst-2")
    right = {
        row: answer == example.target for row, (answer, example) in enumerate(zip(answers, task.test, strict=True))
    }
    assert [q["still_known"] for q in found["questions"]] == [right[q["row"]] for q in found["questions"]]
    assert found["still_known"] == sum(right[q.row] for q in before.lost)
    assert found["by_chance"] == len(before.lost) / 2
    table = clbench("explain", path.stem, "--ask-again", "--format", "md").output
    assert f"| {found['still_known']} (chance " in table
    other = {**json.loads(path.read_text()), "digests": {"questions": "other"}}
    path.write_text(json.dumps(other))
    expect_error(clbench("explain", path.stem, "--ask-again"), "the data 'toy' have other questions than those of")
