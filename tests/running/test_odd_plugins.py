"""Plugins that hand over what is no answer, no score, or no run are refused in one line that names them."""

import json

import pytest

from clbench.records.files import read_record

PLUGIN = """
import math
from clbench import hookimpl
from clbench.plugins.seqlora import SeqLoRA

class Odd(SeqLoRA):
%s

@hookimpl
def methods():
    return {"odd": Odd}
"""
EVALUATE = """
    @hookimpl
    def evaluate(self, learner, task):
        return %s
"""
STREAM = """
    @hookimpl
    def run_stream(self, run):
        %s
        return True
"""
LEARN = "[run.learn(task, i) for i, task in enumerate(run.tasks)]; "
HALF = "[run.learn(task, i) or run.evaluate(1, [i]) for i, task in enumerate(run.tasks)]"
SCORES = "run.progress.scores[1] = "


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (EVALUATE % "'good'", "gave one text to the 8 questions of task 'sst-2'; evaluate returns a list"),
        (EVALUATE % "'12345678'", "gave one text to the 8 questions of task 'sst-2'"),
        (EVALUATE % "['good']", "gave 1 answer to the 8 questions"),
        (EVALUATE % "[None] * 8", "gave 8 answers, one of type NoneType, to the 8 questions"),
        (EVALUATE % "['good'] * 7 + [3]", "gave 8 answers, one of type int, to the 8 questions"),
        (STREAM % "pass", "run_stream learned nothing"),
        (STREAM % LEARN, "run_stream left 3 scores out, the first of task 1 after task 1"),
        (STREAM % HALF, "run_stream left 1 scores out, the first of task 1 after task 1"),
        (STREAM % (LEARN + SCORES + "[1e9, 5]"), "left scores that are none: a score is 1000000000.0"),
        (STREAM % (LEARN + SCORES + "[math.nan, 5]"), "left scores that are none: a score is nan"),
        (STREAM % (LEARN + SCORES + "[50.0]"), "left scores that are none: the scores of 2 tasks are no 2 x 2 matrix"),
    ],
)
def test_it_is_refused_by_name(body, reason, clbench, tiny_run, tmp_path):
    (tmp_path / "odd.py").write_text(PLUGIN % body)
    result = clbench(*tiny_run, "--method", "odd", "--plugin", "odd.py", "--stream", "sst-2,agnews")
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert reason in output
    assert "method 'odd' (" in output
    assert "odd.py)" in output.replace(" ", "")
    assert not list(tmp_path.glob("results/*.json"))


def test_numbers_that_json_has_not_are_null_in_the_record(clbench, tiny_run, tmp_path):
    body = """
    @hookimpl
    def learn_task(self, learner, task):
        super().learn_task(learner, task)
        return {"nan": math.nan, "inf": -math.inf, "one": 1}
"""
    (tmp_path / "odd.py").write_text(PLUGIN % body)
    result = clbench(*tiny_run, "--method", "odd", "--plugin", "odd.py", "--stream", "sst-2")
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("results/*[0-9a-f].json")

    def refuse(constant):
        raise ValueError(constant)

    json.loads(path.read_text(), parse_constant=refuse)
    assert read_record(path).learned == ({"nan": None, "inf": None, "one": 1.0},)
