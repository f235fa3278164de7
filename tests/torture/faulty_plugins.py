"""Plugins with one fault in one place. Verdicts: "" or what was lost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from clbench.records.files import read_records
from tests.torture.children import run
from tests.torture.scene import Scene, fault

PLUGIN = """
import math, os, sys, torch
from clbench import hookimpl
from clbench.plugins.seqlora import SeqLoRA

class OddError(BaseException):
    def __str__(self):
        raise ValueError("no message")

def deep(n=0):
    return deep(n + 1)

{at_import}

class Faulty(SeqLoRA):
    def __init__(self):
        super().__init__()
        {at_init}

    @hookimpl
    def attach(self, learner):
        {at_attach}
        learner.attached.add_lora()
        return True

    @hookimpl
    def learn_task(self, learner, task):
        {at_learn_task}
        return super().learn_task(learner, task)

    @hookimpl
    def evaluate(self, learner, task):
        {at_evaluate}
        return learner.answer(task.test, labels=task.labels)

    @hookimpl
    def run_stream(self, run):
        {at_run_stream}
        return None

    @hookimpl
    def train_step(self, learner, step, steps, loss):
        {at_train_step}

def score(answer, target):
    {at_metric}
    return 50.0

@hookimpl
def methods():
    {at_methods}
    return {{"faulty": Faulty}}

@hookimpl
def metrics():
    {at_metrics}
    return {{"score": score}}
"""
PLACES = (
    "import", "init", "attach", "learn_task", "evaluate", "run_stream", "train_step", "methods", "metrics", "metric",
)  # fmt: skip
RAISED = (
    "raise ValueError('[/] \\x1b[2J \\n two lines')", "raise OddError", "sys.exit(0)", "raise MemoryError", "deep()",
    "raise GeneratorExit", "raise BrokenPipeError(32, 'Broken pipe')",
)  # fmt: skip
RETURNED = {
    "learn_task": ("None", "7", "'text'", "{'x': 'y'}", "{'x': None}", "{1: 2}", "{'x': 10**400}"),
    "evaluate": ("None", "7", "'text'", "[]", "[None] * 4", "[b'x'] * 4", "[chr(0xd800)] * 4", "['x'] * 5"),
    "run_stream": ("True", "7"),
    "methods": ("None", "7", "{'faulty': 3}", "{3: Faulty}", "['faulty']", "{'../x': Faulty}"),
    "metrics": ("None", "7", "{'score': 3}", "{3: score}", "['score']"),
    "metric": ("None", "'x'", "math.nan", "1e9", "-5", "True + 1j"),
    "attach": ("None", "False"),
}
HARMLESS = (  # what a plugin does to its process must change neither where a record goes nor whether it is made
    ("learn_task", "os.chdir('/')"), ("attach", "os.chdir('/tmp')"), ("evaluate", "print('x' * 10000)"),
    ("learn_task", "torch.set_grad_enabled(True)"), ("import", "import warnings; warnings.warn('odd')"),
    ("learn_task", "sys.stdout.close()"), ("train_step", "return 'anything'"),
)  # fmt: skip
REFUSED = (  # what spoils a run ends it
    ("learn_task", "learner.weights.data.fill_(math.nan)"), ("evaluate", "learner.weights.data.fill_(math.inf)"),
    ("train_step", "learner.weights.data[0] = math.nan"),
)  # fmt: skip


def table() -> list[tuple[str, str, bool]]:
    """Return every fault: the place, the line that stands there, and whether a record must come of it all the same."""
    raised = [(place, line, False) for place, line in product(PLACES, RAISED)]
    returned = [(place, f"return {value}", False) for place, values in RETURNED.items() for value in values]
    return [*raised, *returned, *((*one, True) for one in HARMLESS), *((*one, False) for one in REFUSED)]


def plugin_faults(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Run a method with each fault, or with as many as asked for: it ends in one line, or in a record with a score."""
    faults = table()
    chosen = faults if count >= len(faults) else chance.sample(faults, count)
    for place, line, must_succeed in chosen:
        folder = scene.new_folder()
        folder.mkdir()
        wrong = _tried(scene, folder, place, line, must_succeed)
        if not wrong:
            shutil.rmtree(folder)
        yield f"{folder.name}: {place}: {line}: {wrong}" if wrong else ""


def _tried(scene: Scene, folder: Path, place: str, line: str, must_succeed: bool) -> str:
    names = {f"at_{name}": "pass" for name in PLACES} | {f"at_{place}": line}
    (folder / "faulty.py").write_text(PLUGIN.format(**names))
    stream = folder / "s.toml"
    (folder / "r.jsonl").write_text('{"x": "a good film", "y": "fine"}\n' * 4)
    stream.write_text(
        '[tasks.t]\ntrain = "r.jsonl"\ntest = "r.jsonl"\nprompt = "Ask: {x}\\nA:"\ntarget = "y"\nmetric = "score"\n'
    )
    results = folder / "results"
    words = ["--plugin", str(folder / "faulty.py"), "--stream", str(stream)]
    ending = run(scene.command(results, *words, method="faulty"))
    wrong = fault(ending)
    if wrong:
        return wrong
    records = read_records(results) if results.is_dir() else []
    if ending.code == 2 and records:
        return f"a record in spite of: {ending.errors}"
    if ending.code == 2:
        return f"refused: {ending.errors}" if must_succeed else ""
    if len(records) != 1:
        return "ends with 0 and no record"
    return "" if must_succeed or records[0].metrics.op is not None else "ends with 0 and a record without a score"
