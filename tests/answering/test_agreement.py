"""Answers among the labels in whole runs: scores, records, the leaderboard, and the comparison of both ways."""

import json
from dataclasses import replace

import msgspec
import pytest

from clbench.answering.agreement import count_disagreement
from clbench.data.answer_scores import METRICS, exact_match
from clbench.data.streams import find_stream
from clbench.discovery import find_plugins
from clbench.records.files import read_record
from clbench.records.summary import disagreement_text
from clbench.reports.leaderboard import make_rows, render
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import TINY
from tests.records.examples import record

STREAM = find_stream("sst-2,agnews")


@pytest.fixture
def run(backbone, toy_tasks, tmp_path):
    """A function that runs seqlora on two tasks and returns record and answers."""
    plugins = find_plugins()

    def call(method="seqlora", **settings):
        method = plugins.method(method)
        chosen = Settings(
            backbone=backbone.name, stream=STREAM.name, **{**TINY, "max_target": 32, "epochs": 2, **settings}
        )
        options = method.resolve_options({})
        opened = RunOpener(plugins, tmp_path).open(RunSpec(method.name, options, chosen))
        record = execute_run(replace(opened, tasks=toy_tasks), backbone)
        return record, [json.loads(line)["answer"] for line in opened.files.answers.read_text("utf-8").splitlines()]

    return call


def test_a_run_among_the_labels_answers_labels_and_learns_the_same(run, toy_tasks):
    free, answers = run()
    chosen, labels = run(answers="labels")
    assert {answer for task in toy_tasks for answer in task.labels} >= set(labels)
    assert answers != labels
    assert chosen.learned == free.learned
    assert chosen.settings["answers"] == "labels"


def test_verifying_changes_no_score_and_is_kept_in_the_record(run, toy_tasks):
    plain, answers = run()
    record, same = run(verify_answers=5)
    assert same == answers
    assert record.scores == plain.scores
    assert plain.verified_answers == ()
    cells = record.verified_answers
    assert [(cell.after, cell.task, cell.rows) for cell in cells] == [
        (0, "sst-2", 5), (1, "sst-2", 5), (1, "agnews", 5)
    ]  # fmt: skip
    assert sum(cell.differing for cell in cells) > 0
    other = run(answers="labels", verify_answers=5)[0].verified_answers
    assert other == cells  # the same rows, whichever way is scored


def test_disagreement_is_counted_over_the_rows_that_both_ways_answered(make_learner, toy_tasks):
    learner, asked = make_learner(), []

    def ask(task):
        asked.append((learner.asker.way, task.test))
        free = learner.asker.way == "generate"
        return ["Good", "good", "Good." if free else "good", "Good news" if free else "Good", "Bad" if free else "Good"]

    assert count_disagreement(learner.asker, toy_tasks[0], 5, exact_match, ask) == {"rows": 5, "differing": 2}
    assert learner.asker.way == "generate"
    assert [way for way, _ in asked] == ["generate", "labels"]
    assert asked[0][1] == asked[1][1]
    assert set(asked[0][1]) < set(toy_tasks[0].test)
    verbatim = count_disagreement(learner.asker, toy_tasks[0], 5, METRICS["exact_match_verbatim"], ask)
    assert verbatim == {"rows": 5, "differing": 3}
    assert count_disagreement(learner.asker, replace(toy_tasks[0], labels=()), 5, exact_match, ask) is None


def test_the_disagreement_in_one_line():
    cells = [
        {"after": 0, "task": "a", "rows": 4, "differing": 1},
        {"after": 1, "task": "a", "rows": 4, "differing": 2},
        {"after": 1, "task": "b", "rows": 4, "differing": 0},
    ]
    text = disagreement_text(record(fields={"verified_answers": cells}))
    assert text == "generate and labels differ in 3 of 12 answers (25.0%): a 3/8, b 0/4"
    assert disagreement_text(record()) == ""


@pytest.mark.parametrize("method", ["moelora", "sapt", "l2p", "lfpt5", "rkif", "inclora"])
def test_methods_that_act_inside_the_model_answer_among_the_labels(run, toy_tasks, method):
    record, answers = run(method, answers="labels", epochs=1)
    assert {answer for task in toy_tasks for answer in task.labels} >= set(answers)
    assert record.metrics.op is not None


def test_labels_that_cannot_be_told_apart_are_refused_before_anything_is_learned(clbench, tiny_run):
    words = ["--stream", "yahoo,agnews", "--method", "seqlora", "--answers", "labels", "--max-target", "1"]
    result = clbench(*tiny_run, *words)
    assert result.exit_code == 2
    assert "are the same tokens" in result.output
    assert "--answers generate" in result.output
    assert "OP" not in result.output


def test_the_command_prints_the_disagreement_and_the_board_the_recipe(clbench, tiny_run, tmp_path):
    words = ["--stream", "sst-2,agnews", "--method", "seqlora", "--max-target", "32"]
    for more in (["--verify-answers", "4"], ["--answers", "labels"]):
        result = clbench(*tiny_run, *words, *more)
        assert result.exit_code == 0, result.output
        assert ("generate and labels differ in " in result.output) == ("--verify-answers" in more)
    records = [read_record(path) for path in sorted((tmp_path / "results").glob("*.json"))]
    rows = make_rows(records)
    assert len(rows) == 2
    assert sum("answers=labels" in row.recipe for row in rows) == 1
    verified = next(record for record in records if record.verified_answers)
    assert "of 12 answers" in clbench("show", verified.name).output


def test_a_record_from_before_there_was_a_choice_is_one_of_free_answers(run):
    made, _ = run()
    settings = {name: value for name, value in made.settings.items() if name not in ("answers", "eval_tokens")}
    old = msgspec.structs.replace(made, settings=settings, seed=2)
    (row,) = make_rows([old, made])
    assert row.runs == 2
    assert "answers" not in row.recipe
    assert "answers" not in render([row], "md")
