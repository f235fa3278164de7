"""The dry run: what it counts, what it warns of, and that it leaves nothing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from clbench.data.tasks import Example, Task
from clbench.running.dry_run import (
    Calibration,
    Estimate,
    Extent,
    Line,
    _device_memory,
    _totals,
    _warnings,
    duration,
    estimate,
)
from clbench.settings import Settings
from clbench.units import size

FAILS_LATE = '''
from clbench import hookimpl

class Late:
    """Fails on the second task."""

    @hookimpl
    def learn_task(self, learner, task):
        if learner.task_index:
            raise ValueError("too late")
        return learner.training(task.train).stats

@hookimpl
def methods():
    return {"late": Late}
'''


def cells(output: str, run: str) -> list[str]:
    """The cells of one run's row."""
    (line,) = [line for line in output.splitlines() if run in line]
    return re.split(" {2,}", line)[1:]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_counts_what_is_left_and_leaves_nothing(clbench, tiny_run, tmp_path):
    words = [*tiny_run, "--method", "lorareplay", "--stream", "sst-2,agnews"]
    before = clbench(*words, "--seeds", "2", "--dry-run")
    assert before.exit_code == 0, before.output
    assert not list(tmp_path.iterdir())
    shown = cells(before.output, "seed 2")
    assert shown[:4] == ["2", "32", "4", "3 (24 questions)"]  # 2 x 16 rows in batches of 8; 1 + 2 evaluations of 8
    assert "?" not in shown

    assert clbench(*words, "--seeds", "2,").exit_code == 0
    (record,) = (tmp_path / "results").glob("*.json")
    weights = json.loads(record.read_text())["trainable_weights"]
    assert f"trained: {weights:,} weights" in before.output
    files = contents(tmp_path)
    after = clbench(*words, "--seeds", "2", "--dry-run")
    assert contents(tmp_path) == files
    assert cells(after.output, "seed 2") == ["2, finished", *"-----"]
    assert cells(after.output, "seed 1")[:4] == shown[:4]
    assert cells(clbench(*words, "--seeds", "2,", "--force", "--dry-run").output, "seed 2")[:4] == shown[:4]


def test_it_goes_on_from_a_checkpoint_and_warns_where_the_method_fails(clbench, tiny_run, tmp_path):
    (tmp_path / "late.py").write_text(FAILS_LATE)
    words = [*tiny_run, "--method", "late", "--plugin", "late.py", "--stream", "sst-2,agnews"]
    assert clbench(*words).exit_code == 2
    files = contents(tmp_path / "results")
    result = clbench(*words, "--dry-run")
    assert result.exit_code == 0, result.output
    assert cells(result.output, "seed 1") == ["2, 1 finished", "16", "2", "2 (16 questions)", "?", "?"]
    assert "warning: the calibration failed, and so may the run" in result.output
    assert "too late" in result.output
    assert contents(tmp_path / "results") == files


def test_all_tasks_at_once_are_timed_too(clbench, tiny_run):
    result = clbench(*tiny_run, "--method", "mtl", "--stream", "sst-2,agnews", "--save-adapter", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "?" not in cells(result.output, "seed 1")


def test_the_line_goes_through_both_points_and_never_falls():
    assert Line.through([(10, 3.0), (30, 7.0)]) == Line(1.0, 0.2)
    assert Line.through([(30, 7.0), (10, 3.0)]).seconds(20) == pytest.approx(5.0)
    assert Line.through([(10, 1.0), (20, 4.0)]) == Line(0.0, 0.2)  # would start below 0: in proportion to the longer
    assert Line.through([(10, 3.0), (30, 1.0)]) == Line(2.0, 0.0)  # would fall: their mean
    assert Line.through([(10, 3.0)]).seconds(50) == 3.0
    assert Line.through([(10, 3.0), (30, 3.0)]) == Line(3.0, 0.0)
    assert Line.through([(10, 3.0), (20, 9.0), (30, 3.0)]) == Line(5.0, 0.0)
    assert Line.through([(10, 1.0), (10, 3.0)]) == Line(2.0, 0.0)  # one length has no slope
    assert Line.through([(10, 1.0), (20, 2.0)]) == Line(0.0, 0.1)  # in proportion as it is
    assert Line.through([(20, 9.0), (10, 3.0), (30, 7.0)]) == Line(1.0, 0.2)  # the one between does not count


def one_plan(**settings) -> Extent:
    row = Example("", "good", "positive")
    tasks = [Task(name, (row,) * 20, (row,) * 5) for name in "abc"]
    return Extent(Settings(stream="s", batch_size=8, epochs=10, **settings), tasks, 1)


def test_steps_and_questions_of_the_tasks_that_are_left():
    plan = one_plan(matrix="full")
    assert plan.steps == 2 * 3 * 10  # two tasks of 20 rows: 3 batches
    assert len(plan.asked) == 6
    assert len(replace(plan, done=0).asked) == 3 + 9  # before the first task, too
    assert [task.name for task in one_plan(matrix="lower").asked] == list("ababc")
    assert [task.name for task in one_plan().left] == list("bc")
    assert plan.name == "s, seed 1"


SECONDS = Calibration(Line(2.0, 0.0), Line(3.0, 0.0), 1, "cpu", 1, 1, 1000, 2.0, 500)


def test_an_estimate_is_every_row_once_an_epoch_and_every_question(backbone):
    found = estimate(one_plan(matrix="bwt"), SECONDS, backbone)
    assert found.learn == 2 * 20 * 2.0 * 10  # tasks left, rows, seconds, epochs
    assert found.ask == (1 + 3) * 5 * 3.0  # the second task's cells, the third's; questions, seconds
    assert found.disk == 1000 + 500 + (1 + 3) * 5 * 2
    finished = replace(one_plan(matrix="bwt"), done=3)
    assert estimate(finished, SECONDS, backbone) == Estimate(0, 0, 1500)


def test_an_estimate_follows_the_lengths_of_the_prompts(backbone):
    plan, tokens = one_plan(matrix="op"), len(backbone.tokenizer("good\nAnswer:")["input_ids"])
    found = estimate(plan, replace(SECONDS, learn=Line(1.0, 0.5), ask=Line(0.0, 0.25)), backbone)
    assert found.learn == pytest.approx(2 * 20 * (1.0 + 0.5 * tokens) * 10)
    assert found.ask == pytest.approx(3 * 5 * 0.25 * tokens)


def test_the_totals_add_up_the_runs_and_hold_the_largest_calibration():
    small = replace(SECONDS, memory=2**20, checkpoint=2**30, weights=1000)
    large = replace(SECONDS, memory=3 * 2**20, checkpoint=2**20, weights=2000, device="cuda")
    lines = _totals({"a": Estimate(100, 200, 2**30), "b": Estimate(600, 900, 2**30)}, [small, large])
    assert lines == [
        "trained: 2,000 weights",
        "time: about 30 min on cuda (answers of an untrained model may run longer)",
        "peak memory: 3 MiB",
        "disk: 4.0 GiB, of which 2.0 GiB only while a run goes on",  # two runs; two checkpoints of one at a time
    ]
    assert _totals({}, [small]) == []
    assert _totals({"a": Estimate(1, 1, 1)}, []) == []


def test_the_matrix_is_warned_of_where_its_questions_take_long(tmp_path):
    plan = one_plan(matrix="full", device="cpu")  # 6 evaluations are left; bwt would have 5
    for seconds, warned in ((49.0, False), (51.0, True)):
        lines = _warnings([plan], {plan.name: Estimate(100.0, seconds, 1)}, [SECONDS], tmp_path)
        assert [line.split(":")[0] for line in lines] == [plan.name] * warned
    assert len(_warnings([plan], {}, [], tmp_path)) == 1  # nothing is known of the seconds
    assert _warnings([one_plan(matrix="bwt")], {}, [], tmp_path) == []


def test_what_does_not_fit_is_warned_of(tmp_path):
    plan = one_plan(matrix="full", device="cpu")
    small = Calibration(Line(0, 0), Line(0, 0), 1, "cpu", 1, 1, 1, 1.0, 0)
    assert _warnings([plan], {plan.name: Estimate(100.0, 1.0, 1)}, [small], tmp_path) == []
    huge = replace(small, memory=10**18, checkpoint=10**15)
    lines = _warnings([plan], {plan.name: Estimate(1e5, 1e6, 10**18)}, [huge], tmp_path / "not" / "there")
    assert [line.split(":")[0] for line in lines[:1]] == ["s, seed 1"]
    assert "--matrix full asks for 6 evaluations; bwt: 5" in lines[0]
    assert "305.6 h is long" in lines[1]
    assert "of disk are needed" in lines[2]
    assert "memory: close to the limit" in lines[3]
    there, little = _device_memory(plan), {plan.name: Estimate(100.0, 1.0, 1)}
    close = [_warnings([plan], little, [replace(small, memory=int(part * there))], tmp_path) for part in (0.89, 0.91)]
    assert [len(lines) for lines in close] == [0, 1]
    assert len(_warnings([plan], {}, [huge], tmp_path)) == 1  # no estimate: the matrix alone
    (line,) = _warnings([plan], little, [replace(small, checkpoint=10**18)], tmp_path)
    assert "of disk are needed" in line  # for the checkpoints alone


def test_numbers_for_people():
    assert [duration(seconds) for seconds in (0.2, 12, 300, 9000)] == ["< 1 s", "12 s", "5 min", "2.5 h"]
    assert [size(count) for count in (12, 2048, 3 * 2**20, 5 * 2**29)] == ["12 B", "2 KiB", "3 MiB", "2.5 GiB"]
