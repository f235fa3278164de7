"""What each method costs: its training time relative to LoRAReplay, side by side in one run.

    python benchmarks/method_cost.py [--backbone mini | --shape t5-large [--reduced]] [--rounds 3] [--methods rkif,ewc]

Every method learns a small first task, then the second one is timed, the methods in turns within each round, forwards and
back. Printed are medians over rounds of the ratio to LoRAReplay (mix=interleave) of the same round: per optimizer step on the
new task, and at equal batches, which is per row that went through the model. Beside it are the rows per step and the part of
the time that is the method's own arithmetic (importance, masks, fusion) by the cost meter. On a CPU the process's own seconds
are taken, so that other work on the machine disturbs less.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import NamedTuple

from outcome import device_name, named, write_outcome
from shapes import add_backbone_arguments, backbone_settings, chosen_backbone

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Task
from clbench.discovery import Method, Plugins, find_plugins, run_manager
from clbench.learning.learner import Learner
from clbench.learning.stopwatch import Stopwatch
from clbench.model.backbone import Backbone
from clbench.running.protocol import DefaultProtocol
from clbench.settings import Settings, resolve_settings

FIRST_ROWS = 40  # of the first task; half of them are remembered
BASE = "lorareplay mix=interleave"
FORMS = [
    BASE, "lorareplay", "seqlora", "rkif", "rkif variant=release", "rkif outer_importance=static", "ewc", "tasl",
    "tasl variant=taslora", "migu", "migu base=lorareplay", "vrmcl", "inclora", "olora", "moelora", "sapt",
    "agem", "gem", "derpp", "sure", "forever", "aimmerging",
    "l2p", "lfpt5 prompt_length=20 samples_per_class=1",
]  # fmt: skip


class Measured(NamedTuple):
    """Seconds, rows through the model, and the part of the time that is the method's own arithmetic."""

    seconds: float
    rows: int
    own: float


def measure(
    method: Method,
    given: dict[str, str],
    plugins: Plugins,
    backbone: Backbone,
    settings: Settings,
    tasks: list[Task],
) -> Measured:
    """Learn both tasks; return the costs of the second."""
    resolved = method.resolve_options(given)
    options = method.enlarge_memory(resolved, FIRST_ROWS // 2, FIRST_ROWS)
    instance = method.build(options)
    manager = run_manager(plugins, instance, method.name, [DefaultProtocol()])
    learner = Learner(backbone, settings, manager.hook, len(tasks))
    manager.hook.attach(learner=learner)
    seconds = share = 0.0
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        watch, begin = Stopwatch(learner.device), time.process_time()
        with watch:
            manager.hook.learn_task(learner=learner, task=task)
        seconds = time.process_time() - begin if learner.device.type == "cpu" else watch.read()
        share = 1 - learner.cost.harness.read() / watch.read()
    learner.attached.detach()
    return Measured(seconds, learner.cost.forward_rows, share)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_backbone_arguments(parser)
    parser.add_argument("--data", default="toy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--compile", default="none", choices=["none", "default", "cudagraphs"])
    parser.add_argument("--rows", type=int, default=200, help="of the second task [200]")
    parser.add_argument("--methods", help="keep these, separated by commas; the base is always measured")
    arguments = parser.parse_args()
    given = {**backbone_settings(arguments), "data": arguments.data, "epochs": str(arguments.epochs)}
    given |= {"compile": arguments.compile}
    if arguments.shape is not None:
        given |= {"backbone": arguments.shape, "batch_size": "8", "micro_batch": "none", "quantize": "none"}
    settings = resolve_settings(given, arguments.shape)
    backbone = chosen_backbone(arguments, settings)
    first, second = load_tasks(settings.data, find_stream("amazon,yahoo"), arguments.rows, 8)
    tasks = [replace(first, train=first.train[:FIRST_ROWS]), second]
    kept = arguments.methods.split(",") if arguments.methods else [form.split()[0] for form in FORMS]
    forms = [form for form in FORMS if form == BASE or form.split()[0] in kept]
    plugins = find_plugins()
    parsed = {form: dict(word.split("=") for word in form.split()[1:]) for form in forms}

    def run(form: str) -> Measured:
        method = plugins.method(form.split()[0])
        measured = measure(method, parsed[form], plugins, backbone, settings, tasks)
        print(f"{form}: {measured.seconds:.4g} s", flush=True)  # in case that time runs out
        return measured

    run(BASE)  # to warm up
    rounds = [{form: run(form) for form in forms[:: 1 if number % 2 else -1]} for number in range(arguments.rounds)]
    steps = -(-len(second.train) // settings.batch_size) * settings.epochs
    shown = device_name(backbone.device)
    print(f"{backbone.name} on {shown}, {steps} steps of {settings.batch_size} rows, {arguments.rounds} rounds")
    print(f"{'method':32}{'x per step':>12}{'x at equal batches':>20}{'rows/step':>11}{'own arithmetic':>16}")
    table = {}
    for form in forms:
        ratio = statistics.median(results[form].seconds / results[BASE].seconds for results in rounds)
        rows, own = rounds[-1][form].rows, statistics.median(results[form].own for results in rounds)
        equal = ratio / (rows / rounds[-1][BASE].rows)
        print(f"{form:32}{ratio:12.2f}{equal:20.2f}{rows / steps:11.1f}{100 * own:15.1f}%")
        table[form] = {"per_step": ratio, "at_equal_batches": equal, "rows_per_step": rows / steps, "own": own}
    content = {"backbone": backbone.name, "compile": settings.compile, "rounds": arguments.rounds, "methods": table}
    print(f"-> {write_outcome(named('method_cost', backbone.name, settings.compile), backbone.device, content)}")


if __name__ == "__main__":
    main()
