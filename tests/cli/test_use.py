"""`clbench predict`: rows of a file answered by a saved learner, in the prompt of its task."""

import csv
import json

import pytest

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tables import read_table, write_table
from clbench.errors import ClbenchError
from clbench.running.saved_learner import load_learner
from tests.cli.test_bad_input import expect_error
from tests.data.test_own_streams import TICKETS, write_tickets

NEW = [{"subject": f"Nr. {i}", "text": f'The {"invoice" if i % 3 else "screen"}, "broken"', "id": i} for i in range(5)]


@pytest.fixture
def tickets(clbench, tiny_run, tmp_path):
    """The folder of a learner of a user's own stream of two tasks, which is the current one's `results/...`."""
    write_tickets(tmp_path)
    clbench("streams", "new", "support.toml")
    words = ["--method", "seqlora", "--stream", "support.toml", "--epochs", "5", "--save-adapter"]
    result = clbench(*tiny_run, *words)
    assert result.exit_code == 0, result.output
    return next((tmp_path / "results").glob("*.adapter"))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_rows_written_in_each_format_are_read_back(tmp_path, suffix):
    rows = [{**row, "answer": 'a\u2028b\n"c",\td'} for row in NEW]
    write_table(tmp_path / f"t.{suffix}", rows)
    as_text = suffix in ("csv", "tsv")
    expected = [{name: str(value) for name, value in row.items()} if as_text else row for row in rows]
    assert read_table(tmp_path / f"t.{suffix}") == expected


def test_new_rows_are_answered_as_test_rows_were(clbench, tickets, tmp_path):
    """The test file again, under another name: the answers are the record's."""
    lines = [json.loads(line) for line in tickets.with_suffix(".answers.jsonl").read_text("utf-8").splitlines()]
    recorded = {row["id"]: row["answer"] for row in lines if (row["after"], row["task"]) == (1, "tickets")}
    (tmp_path / "tickets_test.csv").rename(tmp_path / "new.csv")
    result = clbench("predict", tickets.stem, "new.csv", "--task", "tickets")
    assert result.exit_code == 0, result.output
    assert result.stdout == "new.answers.csv: 4 rows, answered as task 'tickets'\n"
    rows = read_table(tmp_path / "new.answers.csv")
    assert [row["answer"] for row in rows] == [recorded[f"test:{number}"] for number in range(4)]
    assert [{name: row[name] for name in TICKETS[0]} for row in rows] == TICKETS[8:]


def test_scores_are_probabilities_of_the_labels_beside_the_answer(clbench, tickets, tmp_path):
    write_table(tmp_path / "in.jsonl", NEW)
    words = ["--task", "tickets", "--scores", "--answers", "labels", "--column", "team", "-o", "out/new.parquet"]
    result = clbench("predict", tickets, "in.jsonl", *words)
    assert result.exit_code == 0, result.output
    rows = read_table(tmp_path / "out" / "new.parquet")
    learner = load_learner(tickets, answers="labels")
    questions = [learner.prompts["tickets"].example(row, "") for row in NEW]
    labels = ("billing", "technical")
    assert questions[0].prompt.endswith('Subject: Nr. 0\nThe screen, "broken"\nAnswer:')
    for row, new, answer, chances in zip(
        rows, NEW, learner.answer(questions, labels), learner.probabilities(questions, labels), strict=True
    ):
        assert list(row) == [*new, "team", "team: billing", "team: technical"]
        assert (row["id"], row["team"]) == (new["id"], answer)
        assert [row["team: billing"], row["team: technical"]] == pytest.approx(chances, abs=1e-5)
        assert sum(chances) == pytest.approx(1)
    assert {row["team"] for row in rows} <= set(labels)


def test_a_prompt_of_ones_own_and_the_one_column_of_a_built_in_task(clbench, tiny_run, tmp_path):
    assert clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--save-adapter").exit_code == 0
    (folder,) = (tmp_path / "results").glob("*.adapter")
    task = load_tasks("toy", find_stream("sst-2"), 16, 8, 1)[0]
    saved = load_learner(folder)
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([row.passage] for row in task.test)])
    assert clbench("predict", folder, "in.csv").exit_code == 0
    assert [row["answer"] for row in read_table(tmp_path / "in.answers.csv")] == saved.answer(task.test)
    words = ["--prompt", r"Is it {text}?\nSay:", "--labels", "yes, no", "--scores", "-o", "own.json"]
    result = clbench("predict", folder, "in.csv", *words)
    assert result.exit_code == 0, result.output
    assert list(read_table(tmp_path / "own.json")[0]) == ["text", "answer", "answer: yes", "answer: no"]


def test_what_cannot_be_answered_is_said_in_one_line(clbench, tickets, tmp_path):
    write_table(tmp_path / "in.csv", NEW)
    write_table(tmp_path / "bad.csv", [{"text": "a", "answer": "b"}])
    words = ["predict", tickets, "in.csv"]
    expect_error(clbench("predict", "nothing", "in.csv"), "no saved learner 'nothing': there is neither")
    expect_error(clbench(*words), "of which task are the questions? --task (tickets, summaries)")
    expect_error(clbench(*words, "--task", "ticket"), "no task of this learner: 'ticket'; did you mean 'tickets'?")
    expect_error(clbench(*words, "--task", "summaries"), "in.csv: row 0: no column 'document'")
    expect_error(
        clbench(*words, "--task", "tickets", "--prompt", "Hi"), "the prompt 'Hi' names no column; write {text}"
    )
    expect_error(clbench(*words, "--task", "tickets", "-o", "x.txt"), "x.txt: no format '.txt'")
    expect_error(clbench("predict", tickets, "no.csv", "--task", "tickets"), "no.csv: no such file")
    own = ["--task", "summaries", "--prompt", "{text}"]
    expect_error(
        clbench("predict", tickets, "bad.csv", *own), "bad.csv: there is a column 'answer' already; name the new"
    )
    for flag in (["--scores"], ["--answers", "labels"]):
        expect_error(
            clbench(*words, *own, *flag), f"{' '.join(flag)} needs labels; task 'summaries' has none: --labels"
        )
    assert sorted(path.name for path in tmp_path.glob("*.answers*")) == []


def test_a_method_that_answers_by_itself_has_no_probabilities(tickets, monkeypatch):
    saved = load_learner(tickets)
    monkeypatch.setattr("clbench.running.saved_learner.answers_itself", lambda hook: True)
    with pytest.raises(ClbenchError, match="answers by an `evaluate` hook of its own: no probabilities"):
        saved.probabilities([], ["a"])
