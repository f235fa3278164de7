"""What `test_devices.py` starts in two processes, and does itself in one: every method, on a few rows."""

import gc
import json
import sys
from pathlib import Path

import torch
from rich.console import Console

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.model.devices import Devices, join
from clbench.running.maker import RunMaker
from clbench.running.opening import RunOpener
from clbench.settings import Settings
from clbench.spec import RunSpec

STREAM = "sst-2,agnews"
# 17 rows in batches of 8: the last batch of an epoch has one row for two processes; 24 steps
SETTINGS = {
    "stream": STREAM, "limit_train": 17, "limit_test": 5, "epochs": 4, "learning_rate": 1e-3, "lora_dropout": 0.0,
    "lora_targets": "q,v", "lora_rank": 2, "max_input": 96, "max_target": 8, "max_answer": 4, "threads": 1, "device": "cpu",
}  # fmt: skip
MEMORY = {"memory_ratio": 0.3}
SHORT = {"epochs": 1}
CASES = {  # a method, its options, and settings
    "seqlora": ("seqlora", {}, {}),
    "seqlora in micro-batches": ("seqlora", {}, {"micro_batch": 3, **SHORT}),
    "labels": ("seqlora", {}, {"answers": "labels", "verify_answers": 4, **SHORT}),
    "lorareplay": ("lorareplay", MEMORY, {}),
    "agem": ("agem", MEMORY, SHORT),
    "aimmerging": ("aimmerging", {**MEMORY, "interval": 2, "factor": 0.1}, SHORT),
    "derpp": ("derpp", MEMORY, SHORT),
    "forever": ("forever", {**MEMORY, "day": 1, "replay_steps": 1}, SHORT),
    "gem": ("gem", MEMORY, SHORT),
    "sure": ("sure", {**MEMORY, "replay_every": 1}, SHORT),
    "rkif": ("rkif", {**MEMORY, "window": 4}, {}),
    "rkif, static": ("rkif", {**MEMORY, "window": 4, "outer_importance": "static"}, SHORT),
    "olora": ("olora", {}, {}),
    "ewc": ("ewc", {"fisher_rows": 13}, {}),
    "tasl": ("tasl", {}, {}),
    "taslora": ("tasl", {"variant": "taslora"}, SHORT),
    "vrmcl": ("vrmcl", MEMORY, {}),
    "vrmcl, second order": (
        "vrmcl",
        {**MEMORY, "order": "second", "inner_steps": 2, "outer_at": "mean", "inner_rate": 0.5},
        SHORT,
    ),
    "migu": ("migu", {"base": "lorareplay", **MEMORY}, SHORT),
    "migu, random": ("migu", {"rows": "random", "skip_first_task": False}, SHORT),
    "moelora": ("moelora", {}, SHORT),
    "sapt": ("sapt", MEMORY, SHORT),
    "lwf": ("lwf", {}, SHORT),
    "nlora": ("nlora", {"strength": 0.01}, SHORT),
    "sdlora": ("sdlora", {}, SHORT),
    "ella": ("ella", {"strength": 100.0}, SHORT),
}
OTHER_NUMBERS = ("migu, random",)  # drawn at random by the first process
REFUSED = {
    "l2p": ("l2p", {}, SHORT),
    "lfpt5": ("lfpt5", {}, SHORT),
    "inflora": ("inflora", {}, SHORT),
    "gainlora": ("gainlora", {}, SHORT),
    "balanced": ("moelora", {"load_balance": 0.01}, SHORT),
}
LOUD = {"alone": ("alone", {}, SHORT), "random": ("random", {}, SHORT)}
FAULTY = """
import torch
from clbench import About, hookimpl

class Alone:
    about = About(several_devices=True)

    @hookimpl
    def learn_task(self, learner, task):
        seen = 0.0
        for batch in (training := learner.training(task.train)):
            training.step(learner.loss(batch))
            seen += float(batch.input_ids.sum())
        return {"seen": seen}

class Random(Alone):
    @hookimpl
    def learn_task(self, learner, task):
        learner.weights.data.add_(torch.rand_like(learner.weights.data))
        return {}

@hookimpl
def methods():
    return {"alone": Alone, "random": Random}
"""


def make_all(devices: Devices, backbone: Path, results: Path) -> dict[str, str]:
    """Make all runs; return the names of the records, and the errors."""
    plugin = results / "faulty.py"
    plugins = find_plugins([plugin] if plugin.exists() else [])
    maker = RunMaker(Console(quiet=True), RunOpener(plugins, results), save_adapter=True, devices=devices)
    found = {}
    for name, (method, options, changes) in (CASES | (REFUSED | LOUD if devices.count > 1 else {})).items():
        settings = Settings(**{**SETTINGS, "backbone": str(backbone), **changes})
        try:
            spec = RunSpec(method, plugins.method(method).resolve_options(options), settings)
            found[name] = maker.make(spec).name
        except ClbenchError as error:
            found[name] = f"error: {error}"
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # the cost meter collects garbage: of the libraries there is none
    shared = join()
    folder = Path(sys.argv[2])
    (folder / f"{shared.number}.json").write_text(json.dumps(make_all(shared, Path(sys.argv[1]), folder)))
    shared.leave()
