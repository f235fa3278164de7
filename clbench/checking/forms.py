"""The forms of a run that a method must bear: a decoder, micro-batches, answers among the labels, bfloat16, quantised weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from clbench.checking.finding import Finding
from clbench.checking.observer import Observer
from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Task
from clbench.discovery import Method, Plugins
from clbench.errors import ClbenchError
from clbench.model.backbone import Backbone, load_backbone
from clbench.model.tiny import save_tiny_llama
from clbench.records.answers import read_answers
from clbench.records.record import Record
from clbench.running.opening import RunOpener
from clbench.running.run import execute_run
from clbench.settings import Settings
from clbench.spec import RunSpec

STREAM = find_stream("sst-2,agnews")
ROWS = 24  # 3 steps a task
FORMS = {  # names, and what the finding says
    "decoder": "learns and answers on a decoder",
    "micro-batch": "micro-batches learn what whole batches learn",
    "labels": "answers among the labels",
    "bfloat16": "frozen weights in bfloat16",
    "quantised": "frozen weights in 8 bits",
}
FAR = 0.5  # of the way that the weights have gone: so far off is no rounding


@dataclass(eq=False)
class Forms:
    """Short runs of one method with its options, each in another form; `settings` are what they share."""

    plugins: Plugins
    method: Method
    options: Mapping[str, Any]
    backbone: Backbone
    folder: Path
    settings: Settings
    decoder: Backbone | None = None
    tasks: Sequence[Task] = field(default_factory=lambda: load_tasks("toy", STREAM, ROWS, 4))

    def findings(self, chosen: Collection[str]) -> list[Finding]:
        """Make the method's runs in the chosen forms and return one finding a form."""
        checks = {
            "decoder": self.check_decoder,
            "micro-batch": self.check_micro_batch,
            "labels": self.check_labels,
            "bfloat16": self.check_bfloat16,
            "quantised": self.check_quantised,
        }
        found = []
        for form, check in checks.items():
            if form in chosen:
                try:
                    found.append(Finding(FORMS[form], *check()))
                except ClbenchError as error:
                    found.append(Finding(FORMS[form], str(error), error=error))
        return found

    @cached_property
    def by_label(self) -> tuple[Record, Observer, Path]:
        """The run that answers among the labels; without dropout, which is drawn for each pass, for micro-batches to compare."""
        return self.run("labels", answers="labels", lora_dropout=0.0)

    def run(self, name: str, backbone: Backbone | None = None, **changes: Any) -> tuple[Record, Observer, Path]:
        """Make one run; return its record, what was seen of it, and the file of its answers.

        Raises:
            ClbenchError: it fails, or a task leaves the weights as they were.
        """
        observer, used = Observer(), backbone or self.backbone
        settings = replace(self.settings, backbone=used.name, limit_train=ROWS, limit_test=4, **changes)
        opened = RunOpener(self.plugins, self.folder / name).open(RunSpec(self.method.name, self.options, settings))
        record = execute_run(replace(opened, tasks=self.tasks), used, [observer])
        for number, (before, after) in enumerate(zip(observer.weights, observer.weights[1:], strict=False), start=1):
            if not after.isfinite().all():
                raise ClbenchError(f"task {number} leaves weights that are not finite")
            if torch.equal(before, after):
                raise ClbenchError(f"task {number} leaves all weights as they were")
        return record, observer, opened.files.answers

    def check_decoder(self) -> tuple[str, str]:
        """Learn and answer on a tiny LLaMA, whose prompts are in the Alpaca template."""
        llama = self.decoder or load_backbone(str(save_tiny_llama(self.folder / "tiny-llama")), "cpu")
        self.run("decoder", llama, max_input=256, lora_targets="auto")
        return "", ""

    def check_micro_batch(self) -> tuple[str, str]:
        """Compare the weights after the first task with those of whole batches."""
        _, whole, _ = self.by_label
        _, parts, _ = self.run("micro-batches", lora_dropout=0.0, micro_batch=3)
        far = float((whole.weights[1] - parts.weights[1]).norm() / (whole.weights[1] - whole.weights[0]).norm())
        if far > FAR:
            return f"micro-batches of 3 learn other weights than whole batches of 8: {far:.0%} of the way apart", ""
        return "", ""

    def check_labels(self) -> tuple[str, str]:
        """Look at each answer: it must be one of its task's labels."""
        record, _, file = self.by_label
        labels = {task.name: set(task.labels) for task in self.tasks}
        names = [task.name for task in record.tasks]
        for (_, number), answers in read_answers(record, file).items():
            strange = [one.text for one in answers if one.text not in labels[names[number]]]
            if strange:
                return f"answers '{strange[0]}' to a question of task '{names[number]}', which has no such label", ""
        return "", ""

    def check_bfloat16(self) -> tuple[str, str]:
        """Learn and answer with frozen weights in bfloat16."""
        self.run("bfloat16", load_backbone(self.backbone.name, "cpu", "bfloat16"), precision="bfloat16")
        return "", ""

    def check_quantised(self) -> tuple[str, str]:
        """Learn and answer with frozen weights in 8 bits, where bitsandbytes is installed and takes this machine."""
        if not find_spec("bitsandbytes"):
            return "", "bitsandbytes is not installed"
        try:
            backbone = load_backbone(self.backbone.name, "cpu", quantize="8bit")
        except ClbenchError as error:
            return "", str(error)
        self.run("quantised", backbone, quantize="8bit")
        return "", ""
