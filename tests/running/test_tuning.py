"""Tuning: the space that a method declares, the same number of trials whatever is killed, and what is written of it."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError, RunHeldError
from clbench.learning.divergence import NotFiniteError
from clbench.running.opening import RunOpener
from clbench.running.study import StudySpec, open_study, search_space
from clbench.running.tuning import Study, tune
from clbench.running.watchers.pruning import PrunedError, reached
from clbench.settings import Settings
from clbench.spec import make_spec
from clbench.tuned import read_tuned
from tests.records.examples import record
from tests.records.test_heartbeat import ended_process, leave

pytest.importorskip("optuna")
PLUGINS = find_plugins()


def study(method: str = "ewc", fixed: dict | None = None, **changes) -> StudySpec:
    """A study of a method on two toy tasks."""
    settings = {
        "stream": "sst-2,agnews",
        "limit_train": 16,
        "validation": 8,
        "evaluate_on": "validation",
        "matrix": "lower",
    }
    spec = make_spec(PLUGINS.method(method), fixed or {}, settings)
    given = tuple((name, spec.options[name]) for name in fixed or {})
    return replace(StudySpec(spec.method, spec.options, spec.settings, given), **{"trials": 4, **changes})


class Maker:
    """Stands for a RunMaker: a run's score depends on its learning rate; what is in `script` happens in its place."""

    def __init__(self, results: Path, script=()) -> None:
        self.opener = RunOpener(PLUGINS, results)
        self.script, self.made = list(script), []

    def make(self, spec, others=()):
        self.made.append(spec)
        happens = self.script.pop(0) if self.script else None
        if isinstance(happens, BaseException):
            raise happens
        last = 100 * spec.settings.learning_rate if happens is None else happens
        progress = SimpleNamespace(done=1, learn_seconds=[1.0], evaluate_seconds=[[0.5]], learned=[{"steps": 2}])
        if others[0].report(0, last + 10):
            raise PrunedError(progress)
        fields = {
            "learned": [{"steps": 2}, {"steps": 3}],
            "scores": [[last + 10, None], [last, last]],
            "tasks": [{"name": "sst-2", "version": 1}, {"name": "agnews", "version": 1}],
        }
        return record(spec.method, op=last, fields=fields)


def entry(spec: StudySpec):
    [found] = [one for one in read_tuned(Path(spec.output)) if one.method == spec.method]
    return found


@pytest.mark.parametrize(
    ("method", "fixed", "names"),
    [
        ("seqlora", {}, {"learning_rate", "epochs"}),
        ("ewc", {}, {"learning_rate", "epochs", "option.strength", "option.decay", "option.normalise"}),
        ("ewc", {"strength": 3}, {"learning_rate", "epochs", "option.decay", "option.normalise"}),
        ("lorareplay", {}, {"learning_rate", "epochs"}),  # no memory_ratio; windows have an effect with `mix` alone
        ("lorareplay", {"mix": "interleave"}, {"learning_rate", "epochs", "option.window", "option.replay_steps"}),
        (
            "l2p",
            {},
            {"epochs"} | {f"option.{n}" for n in ("pool", "length", "top", "pull", "learning_rate", "batchwise")},
        ),
    ],
)
def test_what_is_searched(method, fixed, names):
    assert {axis.name for axis in search_space(PLUGINS.method(method), study(method, fixed))} == names


def test_every_method_can_be_searched_from_its_defaults(tmp_path):
    for name in PLUGINS.methods:
        spec = study(name, output=str(tmp_path / "tuned.toml"), trials=1)
        maker = Maker(tmp_path / name)
        tune(spec, maker)
        assert maker.made[0].options == spec.options
        assert maker.made[0].settings == replace(spec.settings, seed=11)
        assert entry(spec).history[0].values.keys() >= {"epochs"}
    assert len(read_tuned(tmp_path / "tuned.toml")) == len(PLUGINS.methods)


def test_a_killed_study_goes_on_to_the_same_trials(tmp_path):
    whole = study(output=str(tmp_path / "whole.toml"))
    alone = Maker(tmp_path / "a")
    tune(whole, alone)
    cut = study(output=str(tmp_path / "cut.toml"))
    killed = Maker(tmp_path / "b", [None, KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        tune(cut, killed)
    assert not Path(cut.output).exists()
    again = Maker(tmp_path / "b")
    tune(cut, again)
    assert killed.made + again.made[1:] == alone.made  # the run that was cut off is taken up, no other is repeated
    assert [trial.values for trial in entry(cut).history] == [trial.values for trial in entry(whole).history]
    assert len(entry(cut).history) == 4
    last = Maker(tmp_path / "b")
    tune(cut, last)
    assert last.made == []
    tune(replace(cut, trials=6), last)  # more of the same study
    assert len(last.made) == 2


def test_the_best_is_kept_and_is_a_preset(tmp_path):
    spec = study(output=str(tmp_path / "tuned.toml"), order=2)
    maker = Maker(tmp_path, [30.0, 50.0, 40.0])
    tune(spec, maker)
    found = entry(spec)
    assert (found.score, found.note, found.budget.trials) == (50.0, "4 trials on order 2", 4)
    assert found.budget.steps == sum(trial.steps for trial in found.history) == 20
    best = maker.made[1]
    made = make_spec(PLUGINS.method("ewc"), {}, {"stream": "agnews", "seed": 3}, spec.output)
    assert (made.options, made.settings.learning_rate) == (best.options, best.settings.learning_rate)
    assert (made.settings.tuned, made.settings.evaluate_on) == ("4 trials on order 2", "test")
    elsewhere = make_spec(PLUGINS.method("ewc"), {}, {"backbone": "folder/t5"}, spec.output)
    assert elsewhere.settings.tuned == f"4 trials on order 2 with {found.budget.backbone}"
    by_hand = make_spec(PLUGINS.method("ewc"), {}, {"epochs": "77"}, spec.output)
    assert (by_hand.settings.epochs, by_hand.settings.tuned) == (77, None)  # no longer what was tuned
    with pytest.raises(ClbenchError, match=r"no method in tuned preset .*: 'rkif'"):
        make_spec(PLUGINS.method("rkif"), {}, {}, spec.output)


def test_fewer_trials_than_were_made_are_the_first_ones(tmp_path):
    spec = study(output=str(tmp_path / "tuned.toml"), trials=3)
    tune(spec, Maker(tmp_path, [10, 20, 30]))
    few = replace(spec, trials=2)
    assert not open_study(few, RunOpener(PLUGINS, tmp_path)).are_complete(False, False)
    maker = Maker(tmp_path)
    tune(few, maker)
    assert not maker.made
    found = entry(few)
    assert (found.score, found.budget.trials, found.budget.steps, len(found.history)) == (20, 2, 10, 2)
    assert found.note == "2 trials on sst-2,agnews"
    tune(spec, maker)
    assert (entry(spec).score, maker.made) == (30, [])


def test_options_that_are_given_make_a_study_of_their_own(tmp_path):
    output = str(tmp_path / "tuned.toml")
    for fixed in ({"base": "lorareplay"}, {"base": "seqlora"}):
        tune(study("migu", fixed, output=output, trials=2), Maker(tmp_path))
    assert [one.fixed for one in read_tuned(Path(output))] == [{"base": "lorareplay"}, {"base": "seqlora"}]
    made = make_spec(PLUGINS.method("migu"), {"base": "lorareplay"}, {}, output)
    assert made.options["base"] == "lorareplay"
    with pytest.raises(ClbenchError, match="only with base=lorareplay; base=seqlora"):
        make_spec(PLUGINS.method("migu"), {}, {}, output)


def test_a_trial_below_the_median_is_ended_after_its_task_and_counts(tmp_path):
    spec = replace(study(output=str(tmp_path / "tuned.toml")), trials=8)
    tune(spec, Maker(tmp_path, [20.0, 30.0, 40.0, 50.0, 60.0, 39.0, 41.0, 70.0]))
    history = entry(spec).history
    assert [trial.state for trial in history] == [*["complete"] * 5, "pruned", "complete", "complete"]
    assert (history[5].reached, history[5].seconds, history[5].steps) == ((49.0,), 1.5, 2)
    assert entry(spec).score == 70.0


def test_a_search_learns_from_the_scores_so_far(tmp_path, monkeypatch):
    """Two studies that draw alike, as long as they draw at random; then the one follows another best trial."""
    monkeypatch.setattr("clbench.running.tuning.RANDOM", 2)
    made = {}
    for folder, scores in (("up", [30.0, 50.0]), ("down", [50.0, 30.0])):
        maker = Maker(tmp_path / folder, scores)
        tune(study("seqlora", output=str(tmp_path / "tuned.toml"), trials=3), maker)
        made[folder] = maker.made
    assert made["up"][:2] == made["down"][:2]
    assert made["up"][2] != made["down"][2]


def test_what_was_forgotten_counts_where_the_objective_says_so(tmp_path):
    spec = study(output=str(tmp_path / "tuned.toml"), objective="op+bwt", trials=1)
    tune(spec, Maker(tmp_path, [30.0]))
    assert entry(spec).score == 25.0  # the record's BWT is -5


def test_numbers_that_are_not_finite_are_a_trial_and_another_error_is_not(tmp_path):
    spec = study(output=str(tmp_path / "tuned.toml"))
    broken = ClbenchError("method 'ewc' failed on task 'sst-2': the loss is not finite")
    broken.__cause__ = NotFiniteError("the loss is not finite")
    tune(spec, Maker(tmp_path, [None, broken]))
    assert [trial.state for trial in entry(spec).history].count("failed") == 1
    assert entry(spec).history[1].score == 0.0
    other = study("seqlora", output=spec.output)
    with pytest.raises(ClbenchError, match="no disk"):
        tune(other, Maker(tmp_path, [ClbenchError("no disk")]))
    maker = Maker(tmp_path, [RunHeldError("another process makes it")])  # which has gone by the next look
    tune(other, maker)
    assert len(entry(other).history) == 4
    assert maker.made[0] == maker.made[1]


def test_a_process_that_another_one_overtakes_ends_with_it(tmp_path):
    spec = study(output=str(tmp_path / "tuned.toml"))

    class Slow(Maker):
        def make(self, run, others=()):
            if not self.made:
                tune(spec, Maker(tmp_path))  # takes up the same trial, and makes all the others
            return super().make(run, others)

    slow = Slow(tmp_path)
    tune(spec, slow)
    assert len(slow.made) == 1
    assert len(entry(spec).history) == 4


def test_a_trial_that_a_living_process_makes_is_left_to_it(tmp_path):
    spec, maker = study(trials=1, seeds=(11, 12)), Maker(tmp_path)
    trials = Study(spec, maker, open_study(spec, maker.opener))
    first = trials.take_up()
    files = maker.opener.open(spec.run(spec.options, 12)).files  # of the first trial, which has the defaults
    leave(files, os.getppid())
    assert trials.take_up() is None
    assert trials.is_open
    leave(files, ended_process())
    assert trials.take_up().number == first.number


def test_another_space_stream_or_seed_is_another_study(tmp_path):
    opener = RunOpener(PLUGINS, tmp_path)
    spec = study()
    others = [study(fixed={"decay": 1.0}), replace(spec, seeds=(12,)), replace(spec, objective="op+bwt")]
    names = {open_study(one, opener).name for one in (spec, *others)}
    assert len(names) == 4
    assert open_study(replace(spec, trials=9, share=1), opener).name == open_study(spec, opener).name


def test_the_mean_on_the_tasks_so_far():
    assert reached([[80.0, None, None], [60.0, 40.0, None], [50.0, None, 10.0]]) == [80.0, 50.0, None]
    assert Settings.tuned is None
