"""`clbench tune`: the plan, real trials, the preset that comes out, the record that says so, and the picture."""

import json
from pathlib import Path

import pytest

from clbench.discovery import find_plugins
from clbench.records.files import read_record
from clbench.tuned import read_tuned

pytest.importorskip("optuna")


def test_from_trials_to_a_record_that_says_so(clbench, tiny_run) -> None:
    flags = [*tiny_run[1:], "--stream", "sst-2", "--validation", "4", "--limit-train", "8", "--threads", "1"]
    for wrong in ("--epochs", "--learning-rate"):  # which are searched
        where = flags.index(wrong)
        del flags[where : where + 2]
    plan = clbench("tune", "--method", "ewc,l2p", *flags, "--trials", 2, "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "strength" in plan.stdout
    assert "no" in plan.stdout.splitlines()[2].split()
    assert not Path("results").exists()

    made = clbench("tune", "--method", "ewc", "--set", "decay=0.9", *flags, "--trials", 2)
    assert made.exit_code == 0, made.output
    assert "ewc (decay=0.9) on sst-2: trial 2 of 2 complete: " in made.stderr
    [found] = read_tuned(Path("results/tuning/tuned.toml"))
    assert (found.method, found.fixed, found.note) == ("ewc", {"decay": 0.9}, "2 trials on sst-2")
    assert {trial.state for trial in found.history} == {"complete"}
    assert found.history[0].values["option.strength"] == 400.0  # the first is what applies without a search
    assert (found.budget.validation, found.budget.limit_train, found.budget.seeds) == (4, 8, (11,))
    assert sum(trial.steps for trial in found.history) == found.budget.steps > 0
    trials = [read_record(path) for path in Path("results/tuning").glob("*.json")]
    assert {trial.setting("evaluate_on") for trial in trials} == {"validation"}
    again = clbench("tune", "--method", "ewc", "--set", "decay=0.9", *flags, "--trials", 2)
    assert "1 of 1 run is done already" in again.stdout

    run = clbench("run", "--method", "ewc", "--set", "decay=0.9", "--preset", "results/tuning/tuned.toml", *flags)
    assert run.exit_code == 0, run.output
    [record] = [read_record(path) for path in Path("results").glob("*.json")]
    assert record.setting("tuned") == "2 trials on sst-2"
    assert record.setting("learning_rate") == found.settings["learning_rate"]
    assert record.method.options["strength"] == found.options["strength"]
    [row] = json.loads(clbench("leaderboard", "--format", "json").stdout)
    assert "tuned: 2 trials on sst-2" in row["recipe"]

    pytest.importorskip("matplotlib")
    drawn = clbench("plot", "tuning", "-o", "tuning.svg")
    assert drawn.exit_code == 0, drawn.output
    assert Path("tuning.svg").stat().st_size > 1000
    assert "no tuned method 'rkif'" in clbench("plot", "tuning", "--method", "rkif").stderr
    shown = clbench("methods", "ewc", "--preset", "results/tuning/tuned.toml")
    assert shown.exit_code == 2  # decay was given
    assert "only with decay=0.9" in shown.stderr


def test_all_is_a_study_of_every_method(clbench) -> None:
    plan = clbench("tune", "--all", "--stream", "sst-2", "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert [line.split()[0] for line in plan.stdout.splitlines()[2:]] == list(find_plugins().methods)


def test_workers_share_the_studies(clbench, monkeypatch) -> None:
    made = []
    monkeypatch.setattr("clbench.running.many.make_runs", lambda console, runs, *more: made.extend(runs))
    result = clbench("tune", "--method", "ewc,l2p", "--stream", "sst-2", "--jobs", 5)
    assert result.exit_code == 0, result.output
    assert [(run.spec.method, run.spec.share) for run in made] == [("ewc", 0), ("ewc", 1), ("l2p", 0), ("l2p", 1)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream", "sst-2"], "name a grid's file, or methods with --method"),
        (["--method", "ewc", "--stream", "sst-2", "--evaluate-on", "test"], "clbench tune sets 'evaluate_on' itself"),
        (["--method", "ewc", "--all", "--stream", "sst-2"], "--all takes every method; leave out --all or --method"),
        (["--method", "ewc"], "name what to tune on with --order or --stream"),
        (["--method", "ewc", "--order", "1,2"], "clbench tune takes one stream, not 2"),
        (["--method", "ewc", "--stream", "sst-2", "--preset", "nowhere.toml"], "no tuned preset 'nowhere.toml'"),
    ],
)
def test_what_is_refused(clbench, words, message) -> None:
    result = clbench("tune", *words)
    assert result.exit_code == 2
    assert message in result.stderr
