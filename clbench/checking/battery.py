"""The battery that every method must pass: two tiny tasks on a tiny random model, learned several times over."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from clbench.checking.finding import Finding
from clbench.checking.forms import FORMS, Forms
from clbench.checking.observer import Observer, Stopped, Stopper
from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Example, Task
from clbench.discovery import Method, Plugins
from clbench.errors import ClbenchError
from clbench.learning.replay_memory import Memory
from clbench.model.backbone import Backbone, load_backbone
from clbench.model.tiny import save_tiny_t5
from clbench.options import format_value
from clbench.records.answers import read_answers
from clbench.records.files import RunFiles, read_record
from clbench.records.record import Record
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.running.saved_learner import STATE_FILE, read_saved, restore_learner
from clbench.seeds import derive_seed
from clbench.settings import Settings
from clbench.spec import RunSpec
from clbench.units import Every, counted

STREAM = find_stream("sst-2,agnews")
ROWS = 72  # 9 steps a task: a window of the default 8 is closed, and 2% of the rows are not nothing
NEVER, EACH_STEP = Every(), Every(steps=1)
SETTINGS = Settings(
    stream=STREAM.name, limit_train=ROWS, limit_test=8, epochs=1, learning_rate=1e-2,
    max_input=96, max_target=8, max_answer=4, lora_rank=2, lora_targets="q,v", device="cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A finished run of the battery."""

    record: Record
    adapter: Mapping[str, Tensor]
    files: RunFiles

    @property
    def answers(self) -> dict[str, list[str]]:
        """The answers after the last task, by task."""
        cells, end = read_answers(self.record, self.files.answers), len(self.record.tasks) - 1
        return {task.name: [answer.text for answer in cells[end, j]] for j, task in enumerate(self.record.tasks)}

    def differs(self, other: Outcome) -> str:
        """Return in what two runs differ, or nothing."""
        if self.adapter.keys() != other.adapter.keys() or any(
            not torch.equal(tensor, other.adapter[name]) for name, tensor in self.adapter.items()
        ):
            return "weights"
        if self.record.scores != other.record.scores or self.answers != other.answers:
            return "answers"
        return ""


@dataclass(eq=False)
class Battery:
    """The runs of one method with its options."""

    plugins: Plugins
    method: Method
    options: Mapping[str, Any]
    backbone: Backbone
    folder: Path
    tasks: list[Task] = field(default_factory=lambda: load_tasks("toy", STREAM, ROWS, SETTINGS.limit_test))

    def run(
        self,
        name: str,
        watchers: Sequence[object] = (),
        seed: int = 1,
        tasks: Sequence[Task] = (),
        every: Every = NEVER,
    ) -> Outcome:
        """Run the method in a folder of its own and return what came out.

        Args:
            every: how often it is written down within a task.
        """
        settings = replace(SETTINGS, seed=seed, backbone=self.backbone.name)
        opened = RunOpener(self.plugins, self.folder / name).open(RunSpec(self.method.name, self.options, settings))
        opened = replace(opened, tasks=tasks or self.tasks)
        record = execute_run(opened, self.backbone, watchers, save_adapter=True, every=every)
        if self.backbone.spoiled:
            raise ClbenchError(f"leaves the frozen backbone changed: {', '.join(self.backbone.spoiled[:3])}")
        files = opened.files
        saved = {
            name: tensor
            for file in sorted(files.adapter.glob("*.safetensors"))
            if file.name != STATE_FILE
            for name, tensor in load_file(file).items()
        }
        return Outcome(record, saved, files)

    def findings(self) -> list[Finding]:
        """Run everything and return one finding a check; a run that fails ends the battery."""
        observer = Observer()
        first = "learns and changes the weights"
        try:
            whole = self.run("whole", [observer], tasks=observer.watch(self.tasks))
        except ClbenchError as error:
            return [Finding(first, str(error), error=error)]
        checks: dict[str, Callable[[], tuple[str, str]]] = {
            first: lambda: check_changes(whole, observer),
            "every optimizer really steps": lambda: check_rates(observer),
            "same seed, same weights": lambda: self.check_seeds(whole, observer),
            "stopped and resumed equals uninterrupted": lambda: self.check_resume(whole),
            "stopped within a task and resumed equals uninterrupted": lambda: self.check_steps(whole, observer),
            "saved adapter reloads to the same answers": lambda: self.check_reload(whole, observer),
            "options round-trip": lambda: self.check_options(whole),
            "reads no rows beyond its memory": lambda: self.check_reading(observer),
            "keeps no rows beyond its memory": lambda: self.check_keeping(observer),
            "answers need no task id": lambda: self.check_task_id(whole, observer),
        }
        found = []
        for check, action in checks.items():
            try:
                found.append(Finding(check, *action()))
            except ClbenchError as error:
                found.append(Finding(check, str(error), error=error))
        return found

    def check_seeds(self, whole: Outcome, observer: Observer) -> tuple[str, str]:
        """Compare the weights after the first task with those of the same and of another seed."""
        of_seed = {}
        for seed in (1, 2):
            other = Observer()
            with suppress(Stopped):
                self.run(f"seed {seed}", [other, Stopper()], seed)
            of_seed[seed] = other.weights[1]
        if not torch.equal(of_seed[1], observer.weights[1]):
            return "a second run with the same seed has other weights", ""
        return ("a run with another seed has the same weights" if torch.equal(of_seed[1], of_seed[2]) else ""), ""

    def check_resume(self, whole: Outcome) -> tuple[str, str]:
        """Start the run anew that was stopped within its second task."""
        begun = any((self.folder / "seed 1").glob("*.checkpoint"))
        difference = whole.differs(self.run("seed 1"))
        if not difference:
            return "", "" if begun else "learns in one phase: nothing to resume"
        return f"a run stopped in task 2 and resumed has other {difference}; state: dataclass fields, init=False", ""

    def check_steps(self, whole: Outcome, observer: Observer) -> tuple[str, str]:
        """Stop a run at any step of its last task, and start it anew; a method may say that it goes on from tasks alone."""
        if not self.method.about.resumes_within_tasks:
            return "", "goes on from the last finished task (About.resumes_within_tasks)"
        task, steps = len(observer.steps), observer.steps[-1]
        if steps < 2:
            return "", "takes no two steps in a task: nothing to stop"
        stop = random.Random(derive_seed(self.method.name, *self.options.values())).randint(2, steps)
        with suppress(Stopped):
            self.run("steps", [Stopper(stop, task)], every=EACH_STEP)
        if not any((self.folder / "steps").glob("*.bookmark")):
            return "says that it resumes within tasks, but its phases are not one loop each, one after the other", ""
        difference = whole.differs(self.run("steps", every=EACH_STEP))
        where = f"at step {stop} of task {task}"
        return f"a run stopped {where} and resumed has other {difference} (Training.keep)" if difference else "", ""

    def check_reload(self, whole: Outcome, observer: Observer) -> tuple[str, str]:
        """Load what was saved, as `load_learner` does, and ask again."""
        telling = [tensor for name, tensor in whole.adapter.items() if "lora_A" not in name]
        if not any(tensor.any() for tensor in telling):
            return (
                f"the saved adapter is empty: {counted(len(whole.adapter), 'tensor')}, none that changes an answer",
                "",
            )
        folder = whole.files.adapter
        saved = read_saved(folder)
        loaded = restore_learner(folder, saved, self.plugins, self.backbone, saved.spec.settings)
        try:
            if not torch.equal(loaded.learner.weights.data, observer.weights[-1]):
                return "the reloaded weights differ from those that were learned", ""
            for task in self.tasks:
                if loaded.evaluate(task) != whole.answers[task.name]:
                    return f"the reloaded learner answers task '{task.name}' differently", ""
        finally:
            loaded.learner.attached.detach()
        return "", ""

    def check_options(self, whole: Outcome) -> tuple[str, str]:
        """Read the record and turn its options into texts and back."""
        recorded = read_record(whole.files.record).method.options
        known = self.method.options
        again = {name: known[name].convert(format_value(value)) for name, value in recorded.items()}
        if again != recorded or again != dict(self.options):
            return f"given {dict(self.options)}, recorded {recorded}, read back {again}", ""
        return "", ""

    def budget(self, task: Task) -> int:
        """Return how many training rows of a task the method may keep."""
        return self.method.budget(self.options, len(task.train), len(task.labels))

    def check_reading(self, observer: Observer) -> tuple[str, str]:
        """Compare the rows that were read while another task was learned with the budget."""
        for number, keys in enumerate(observer.read, start=1):
            tests = [key for key in keys if key[1] == "test"]
            if tests:
                return f"reads {counted(len(tests), 'test row')} while it learns task {number}", ""
            for task in self.tasks:
                rows = sum(key[0] == task.name for key in keys)
                if rows > self.budget(task):
                    where = f"of task '{task.name}' while it learns task {number}"
                    return f"reads {counted(rows, 'row')} {where}, may keep {self.budget(task)}", ""
        return "", ""

    def check_keeping(self, observer: Observer) -> tuple[str, str]:
        """Look for training rows in the checkpointed state."""
        texts = "\n".join(texts_of(observer.state))
        for task in self.tasks:
            rows = sum(row.passage in texts for row in task.train)
            if rows > self.budget(task):
                return f"keeps {counted(rows, 'row')} of task '{task.name}', may keep {self.budget(task)}", ""
        return "", ""

    def check_task_id(self, whole: Outcome, observer: Observer) -> tuple[str, str]:
        """Compare with the answers to all questions together, without the tasks' names."""
        named = [answer for task in self.tasks for answer in whole.answers[task.name]]
        differing = sum(a != b for a, b in zip(named, observer.unnamed, strict=True))
        if not differing:
            return "", ""
        if self.method.about.needs_task_id:
            return "", "declares that it needs the task id"
        return f"{differing} of {len(named)} answers change when the tasks' names are hidden (About.needs_task_id)", ""


def check_changes(whole: Outcome, observer: Observer) -> tuple[str, str]:
    """Look for scores, and compare the weights before and after each task."""
    if None in whole.record.scores[-1]:
        return "after the last task not every task was evaluated", ""
    for number, (before, after) in enumerate(zip(observer.weights, observer.weights[1:], strict=False), start=1):
        if torch.equal(before, after):
            return f"task {number} leaves all weights as they were", ""
    return "", ""


def check_rates(observer: Observer) -> tuple[str, str]:
    """Look for an optimizer whose steps all had a learning rate of zero."""
    for number, rates in enumerate(observer.rates, start=1):
        still = [optimizer for optimizer, rate in rates.items() if rate == 0]
        if still:
            return (
                f"task {number}: {len(still)} of {counted(len(rates), 'optimizer')} never step above learning rate 0",
                "",
            )
    return "", ""


def texts_of(value: Any) -> list[str]:
    """Return every text in a method's state."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Example):
        return [value.passage]
    if isinstance(value, Memory):
        return [example.passage for example in value.examples]
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in texts_of(item)]
    return [text for item in value for text in texts_of(item)] if isinstance(value, (list, tuple)) else []


def check_method(
    plugins: Plugins,
    method: Method,
    options: Mapping[str, Any],
    backbone: Backbone | None = None,
    forms: Collection[str] = tuple(FORMS),
    decoder: Backbone | None = None,
) -> list[Finding]:
    """Run the battery in a temporary folder; where the method fails at once, that is all.

    Args:
        backbone: the tiny T5, if it is loaded already.
        forms: other ways to run that are tried, too (`clbench.checking.forms`).
        decoder: the tiny LLaMA, if it is loaded already.
    """
    with TemporaryDirectory(prefix="clbench-check-") as folder:
        if backbone is None:
            backbone = load_backbone(str(save_tiny_t5(Path(folder) / "tiny")), "cpu")
        found = Battery(plugins, method, options, backbone, Path(folder)).findings()
        if len(found) == 1:
            return found
        return found + Forms(plugins, method, options, backbone, Path(folder), SETTINGS, decoder).findings(forms)
