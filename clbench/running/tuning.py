"""Tune a method: a study of trials, each a run that is resumed as any run is, kept in SQLite by Optuna (extra `clbench[tune]`).

Whatever is killed, the same command ends with the same number of trials: the database holds what each trial tries, and a trial
whose process died is taken up from the checkpoint of its run. Several processes may work on one study at a time: who may ask
for the next trial is decided by a lock, who makes a run by the run's own.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from clbench.atomic import make_folder
from clbench.discovery import Method
from clbench.errors import ClbenchError, RunHeldError
from clbench.learning.divergence import NotFiniteError
from clbench.records.heartbeat import read_beat
from clbench.records.record import Record
from clbench.running.maker import RunMaker
from clbench.running.protocol import Progress
from clbench.running.study import OPTION, Axis, StudyFiles, StudySpec, open_study, search_space
from clbench.running.watchers.pruning import PrunedError, Pruning, reached
from clbench.seeds import derive_seed
from clbench.spec import PROTOCOL_VERSION, RunSpec, Value
from clbench.tuned import Budget, Trial, Tuned, write_tuned

if TYPE_CHECKING:
    import optuna

LOGGER = logging.getLogger(__name__)
WAIT = 1.0  # seconds between two looks at trials that other processes make
RANDOM = 5  # trials before the sampler learns from them, and before any is pruned
LOWEST = {"op": 0.0, "op+bwt": -100.0}  # the score of a trial whose numbers are not finite


def need_optuna() -> None:
    """Check that Optuna is installed, and let it log warnings alone.

    Raises:
        ClbenchError: it is not.
    """
    try:
        import optuna
        import tomlkit  # noqa: F401
    except ImportError:
        raise ClbenchError("clbench tune needs Optuna: pip install 'clbench[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def tune(spec: StudySpec, maker: RunMaker) -> str:
    """Make the missing trials of a study, together with whoever else does, write the tuned preset, and return the best in a line.

    Raises:
        ClbenchError: a run fails for another reason than numbers that are not finite, or every trial failed.
    """
    need_optuna()
    study = Study(spec, maker, open_study(spec, maker.opener))
    while (trial := study.take_up()) is not None or study.is_open:
        if trial is None:
            time.sleep(WAIT)
        else:
            study.make(trial)
    found = study.result()
    write_tuned(study.files.output, found)
    return f"{spec}: {found.score:.2f}, the best of {len(found.history)} trials"


class Study:
    """The trials of a study, and the runs behind them."""

    def __init__(self, spec: StudySpec, maker: RunMaker, files: StudyFiles) -> None:
        import optuna

        self.spec, self.maker, self.files = spec, maker, files
        self.method: Method = maker.opener.plugins.method(spec.method)
        self.axes: list[Axis] = search_space(self.method, spec)
        make_folder(files.folder)
        options = {"connect_args": {"timeout": 60}}
        with self._lock():
            storage = optuna.storages.RDBStorage(f"sqlite:///{files.checkpoint.absolute()}", engine_kwargs=options)
            self._study = optuna.create_study(
                storage=storage,
                study_name=files.name,
                direction="maximize",
                pruner=median_pruner(),
                load_if_exists=True,
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.files.folder / f".{self.files.name}.lock"):
            yield

    @property
    def is_open(self) -> bool:
        """Whether a trial is missing, or not finished."""
        trials = self._trials
        return len(trials) < self.spec.trials or not all(trial.state.is_finished() for trial in trials)

    @property
    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that count: of a study that has more than are asked for, the first ones."""
        return self._study.get_trials(deepcopy=False)[: self.spec.trials]

    def take_up(self) -> optuna.Trial | None:
        """Return a trial to make: one that nobody makes any more, or the next one; none where others make what is left."""
        import optuna

        with self._lock():
            trials = self._trials
            for frozen in trials:
                if frozen.state == optuna.trial.TrialState.WAITING:  # a kill came before it was asked for
                    return self._draw(self._study.ask())
                if not frozen.state.is_finished() and not self._is_held(frozen.user_attrs):
                    trial = optuna.Trial(self._study, frozen._trial_id)
                    return trial if "runs" in frozen.user_attrs else self._draw(trial)
            if len(trials) >= self.spec.trials:
                return None
            self._study.sampler = optuna.samplers.TPESampler(
                seed=derive_seed("tune", self.files.name, len(trials)) % 2**32, n_startup_trials=RANDOM
            )
            if not trials:  # the first trial is what applies without a search
                self._study.enqueue_trial({axis.name: axis.default for axis in self.axes if axis.holds_default})
            return self._draw(self._study.ask())

    def _is_held(self, kept: Mapping[str, Any]) -> bool:
        return any(read_beat(self.maker.opener.open(spec).files) is not None for spec in _runs(kept))

    def _draw(self, trial: optuna.Trial) -> optuna.Trial:
        """Draw the values of a trial, and keep with it its runs."""
        options: dict[str, Value] = dict(self.spec.options)
        values: dict[str, Value] = {}
        for axis in self.axes:
            if axis.name.startswith(OPTION) and axis.option.obstacle(options) is not None:
                continue  # it has no effect beside the others
            known = trial.number == 0 and not axis.holds_default
            values[axis.name] = axis.default if known else suggest(trial, axis)
            if axis.name.startswith(OPTION):
                options[axis.option.name] = values[axis.name]
        found = {name.removeprefix(OPTION): value for name, value in values.items() if name.startswith(OPTION)}
        settings = {name: value for name, value in values.items() if not name.startswith(OPTION)}
        chosen = self.method.resolve_options({**dict(self.spec.fixed), **found}, self.spec.options)
        runs = [self.spec.run(chosen, seed, **settings).as_dict() for seed in self.spec.seeds]
        trial.set_user_attr("values", values)
        trial.set_user_attr("runs", runs)  # last: it says that the trial can be made
        return trial

    def make(self, trial: optuna.Trial) -> None:
        """Make the runs of a trial, or what is left of them, and say how it ended, unless another process is quicker.

        Raises:
            ClbenchError: a run failed for another reason than numbers that are not finite.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(RunHeldError, UpdateFinishedTrialError):
            self._make(trial)

    def _make(self, trial: optuna.Trial) -> None:
        records: list[Record] = []
        runs = _runs(trial.user_attrs)
        try:
            for place, run in enumerate(runs):
                report = partial(self._report, trial, place * len(self.maker.opener.open(run).tasks))
                records.append(self.maker.make(run, [Pruning(report)]))
                for index, score in enumerate(reached(records[-1].scores)):
                    if score is not None:
                        report(index, score)
        except RunHeldError:
            raise
        except PrunedError as error:
            self._end(trial, "pruned", None, records, error.progress)
            self.maker.opener.open(runs[len(records)]).files.checkpoint.unlink(missing_ok=True)
        except ClbenchError as error:
            if not _is_not_finite(error):
                raise
            self._end(trial, "failed", LOWEST[self.spec.objective], records, note=str(error))
        else:
            self._end(trial, "complete", fmean(self._score(record) for record in records), records)

    def _report(self, trial: optuna.Trial, before: int, index: int, score: float) -> bool:
        """Keep what a trial has reached after a task; return whether it is to be ended."""
        step = before + index
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if step not in known:
            trial.report(score, step)
        return step >= max(known, default=step) and trial.should_prune()

    def _score(self, record: Record) -> float:
        op, bwt = record.metrics.op or 0.0, record.metrics.bwt or 0.0
        return op + bwt if self.spec.objective == "op+bwt" else op

    def _end(
        self,
        trial: optuna.Trial,
        state: str,
        score: float | None,
        records: Sequence[Record],
        progress: Progress | None = None,
        note: str = "",
    ) -> None:
        from optuna.trial import TrialState

        seconds: list[Any] = [(record.timings.learn_seconds, record.timings.evaluate_seconds) for record in records]
        learned: list[Mapping[str, Any]] = [report for record in records for report in record.learned]
        if progress is not None:
            seconds.append((tuple(progress.learn_seconds), tuple(map(tuple, progress.evaluate_seconds))))
            learned += progress.learned
        total = sum(sum(learning) + sum(map(sum, asking)) for learning, asking in seconds)
        trial.set_user_attr("seconds", round(total, 1))
        trial.set_user_attr("steps", int(sum(report.get("steps") or 0 for report in learned)))
        trial.set_user_attr("note", note)
        trial.set_user_attr("state", state)
        told = TrialState.PRUNED if state == "pruned" else None
        self._study.tell(trial, score, told, skip_if_finished=True)
        shown = state if score is None else f"{state}: {score:.2f}"
        LOGGER.info("%s: trial %d of %d %s", self.spec, trial.number + 1, self.spec.trials, shown)

    def result(self) -> Tuned:
        """Return what was found.

        Raises:
            ClbenchError: every trial failed.
        """
        trials = self._trials
        history = tuple(_in_history(trial) for trial in trials)
        complete = [one for one in history if one.state == "complete"]
        if not complete:
            raise ClbenchError(f"{self.spec}: none of {len(trials)} trials was completed; the last: {history[-1].note}")
        best = max(complete, key=lambda one: (one.score or 0.0, -one.number))
        options = {n.removeprefix(OPTION): value for n, value in best.values.items() if n.startswith(OPTION)}
        return Tuned(
            method=self.spec.method,
            note=self.spec.note,
            study=self.files.name,
            fixed=dict(self.spec.fixed),
            preset=self.spec.preset,
            score=best.score,
            settings={name: value for name, value in best.values.items() if not name.startswith(OPTION)},
            options=options,
            budget=self._budget(history),
            importance=self._importance(),
            history=history,
        )

    def _budget(self, history: Sequence[Trial]) -> Budget:
        spec, settings = self.spec, self.spec.settings
        return Budget(
            trials=spec.trials,
            stream=spec.stream,
            order=spec.order,
            seeds=spec.seeds,
            objective=spec.objective,
            validation=settings.validation,
            limit_train=settings.limit_train,
            data=settings.data,
            backbone=settings.backbone,
            seconds=round(sum(one.seconds for one in history), 1),
            steps=sum(one.steps for one in history),
            protocol_version=PROTOCOL_VERSION,
        )

    def _importance(self) -> dict[str, float]:
        """Return each searched name's share in the score; empty where too few trials tell, or all are as good."""
        import optuna

        try:
            with warnings.catch_warnings(action="ignore"):
                study = optuna.create_study(direction="maximize")
                study.add_trials(self._trials)
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (RuntimeError, ValueError):
            return {}
        return {name: round(float(value), 4) for name, value in found.items()}


def median_pruner() -> Any:
    """Return what ends a trial that is below the median of the completed ones after the same task.

    Optuna's own median pruner compares the best that a trial has reached at any step. Here that is the score on the first task,
    which nothing later exceeds: it would hardly end a trial.
    """
    import optuna

    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            step = trial.last_step
            trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
            others = [one.intermediate_values[step] for one in trials if step in one.intermediate_values]
            if step is None or len(others) < RANDOM:
                return False
            return bool(trial.intermediate_values[step] < median(others))

    return Pruner()


def suggest(trial: optuna.Trial, axis: Axis) -> Value:
    """Return a trial's value of an axis."""
    found: Value
    if axis.search.choices:
        found = trial.suggest_categorical(axis.name, axis.choices)
    elif axis.option.types == (int,):
        low, high = axis.range
        found = trial.suggest_int(axis.name, int(low), int(high), log=axis.search.log)
    else:
        found = trial.suggest_float(axis.name, *axis.range, log=axis.search.log)
    return found


def _runs(kept: Mapping[str, Any]) -> list[RunSpec]:
    return [RunSpec.from_dict(run) for run in kept.get("runs", [])]


def _is_not_finite(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, NotFiniteError):
        error = error.__cause__
    return error is not None


def _in_history(trial: optuna.trial.FrozenTrial) -> Trial:
    kept = trial.user_attrs
    return Trial(
        number=trial.number,
        state=kept["state"],
        score=None if trial.value is None else round(trial.value, 3),
        reached=tuple(round(trial.intermediate_values[step], 3) for step in sorted(trial.intermediate_values)),
        seconds=kept["seconds"],
        steps=kept["steps"],
        values=kept["values"],
        note=kept["note"],
    )
