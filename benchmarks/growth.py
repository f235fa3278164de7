"""How the cost of a run grows with the number of its tasks: time, memory and disk of each task of one long stream.

    python benchmarks/growth.py [--tasks 100] [--methods inclora,olora,sapt,gainlora] [--rows 32] [--questions 8]
        [--picture FILE.png]

The stream passes over the toy tasks again and again, so that all its tasks cost the same but for what the method has gathered. A
random T5 of one layer learns it (`--backbone` names another). Of each task are noted: the process's own seconds of learning and,
in the mean over the tasks that are asked after it, of answering one task's questions, what the method keeps, the process's
memory, the checkpoint after it; of the run, its record and answers. Printed is the last task against the one in the middle of
the stream: 1 is a cost that does not grow, 2 one that grows in line with the number of tasks. `--matrix lower` asks of all
earlier tasks, too, whose number grows in any case.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from outcome import device_name, write_outcome
from rich.console import Console

from clbench.data.tasks import Task
from clbench.data.toy import TOY_TASKS
from clbench.discovery import Plugins, find_plugins
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.model.tiny import save_tiny_t5
from clbench.records.record import Record
from clbench.running.maker import RunMaker
from clbench.running.opening import RunOpener
from clbench.spec import make_spec

MEASURES = {
    "learn": "seconds of learning a task",
    "ask": "seconds of a task's questions",
    "kept": "kept by the method, MB",
    "memory": "memory of the process, MB",
    "checkpoint": "checkpoint, MB",
}
MEGABYTE = 1e6
NEAR = 5  # tasks whose median stands for one of them


@dataclass(eq=False)
class Growth:
    """What each task of a run took; a plugin that watches the hooks, and looks at the checkpoint before the next task."""

    folder: Path
    found: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES if name != "kept"})
    asked: int = 0  # tasks since the last one was learned

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Time learning."""
        if self.found["learn"]:
            self.look_at_disk()
        begin = time.process_time()
        report = yield
        self.found["learn"].append(time.process_time() - begin)
        self.found["ask"].append(0.0)
        self.asked = 0
        self.found["memory"].append(resident() / MEGABYTE)
        return report

    @hookimpl(wrapper=True)
    def evaluate(self, learner: Learner, task: Task) -> Generator[None, Sequence[str], Sequence[str]]:
        """Time the questions."""
        begin = time.process_time()
        answers = yield
        self.asked += 1
        self.found["ask"][-1] += (time.process_time() - begin - self.found["ask"][-1]) / self.asked  # the mean
        return answers

    def look_at_disk(self) -> None:
        """Note the checkpoint that the last task left."""
        size = sum(path.stat().st_size for path in self.folder.glob("*.checkpoint"))
        self.found["checkpoint"].append(size / MEGABYTE)


def resident() -> int:
    """Return the bytes of memory that the process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most that it held
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_long(method: str, settings: Mapping[str, Any], plugins: Plugins) -> dict[str, Any]:
    """Return what each task of a long stream took a method, and the size of what the run left."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watcher = Growth(folder)
        spec = make_spec(plugins.method(method), {}, settings)
        maker = RunMaker(Console(quiet=True), RunOpener(plugins, folder))
        record: Record = maker.make(spec, [watcher])
        left = sum(path.stat().st_size for path in folder.iterdir())
    kept = [cost.kept_bytes / MEGABYTE for cost in record.costs]
    return {**watcher.found, "kept": kept, "left_mb": left / MEGABYTE}


def near(values: Sequence[float], place: float) -> float:
    """Return the median of the values of the tasks about a place of the stream, from 0 to 1."""
    end = max(NEAR, round(place * len(values)))
    return median(values[max(0, end - NEAR) : end])


def print_growth(method: str, found: Mapping[str, Any]) -> None:
    """Print how much more the last task took than the one in the middle of the stream."""
    parts = []
    for name in MEASURES:
        middle, last = near(found[name], 0.5), near(found[name], 1.0)
        parts.append(f"{name} {last:.3g} ({last / middle:.2f}x)" if middle else f"{name} {last:.3g}")
    print(f"{method}: {', '.join(parts)}; record and answers {found['left_mb']:.2f} MB", flush=True)


def draw(outcome: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw each measure over the number of tasks, a line a method."""
    from clbench.reports.plots.style import FAINT, colour, new_figure, style

    with style():
        figure = new_figure(9, 5)
        *panels, last = figure.subplots(2, 3).flat
        for axes, (name, title) in zip(panels, MEASURES.items(), strict=True):
            for number, (method, found) in enumerate(outcome.items()):
                values = found[name]
                axes.plot(range(1, len(values) + 1), values, color=colour(number), label=method, linewidth=1.2)
            axes.set_title(title, loc="left")
            axes.set_xlabel("task", color=FAINT)
            axes.set_ylim(bottom=0)
        last.axis("off")
        last.legend(*axes.get_legend_handles_labels(), frameon=False, loc="center")
        figure.savefig(path)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--methods", default="inclora,olora,sapt,gainlora")
    parser.add_argument("--rows", type=int, default=32, help="training rows a task")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--matrix", default="bwt", choices=["op", "bwt", "lower", "full"])
    parser.add_argument("--backbone", help="[a tiny random T5]")
    parser.add_argument("--plugin", action="append", default=[], type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    plugins = find_plugins(arguments.plugin)
    outcome: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        settings = {
            "stream": ",".join(islice(cycle(TOY_TASKS), arguments.tasks)),
            "backbone": arguments.backbone or str(save_tiny_t5(Path(name))),
            "limit_train": arguments.rows, "limit_test": arguments.questions, "matrix": arguments.matrix, "epochs": 1,
            "max_input": 128, "max_answer": 4, "lora_rank": 4, "threads": 1, "seed": 1,
        }  # fmt: skip
        for method in arguments.methods.split(","):
            outcome[method] = run_long(method, settings, plugins)
            print_growth(method, outcome[method])
            if arguments.picture:
                draw(outcome, arguments.picture)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shown = {name: value for name, value in settings.items() if name not in ("stream", "backbone")}
    content = {"tasks": arguments.tasks, "settings": shown, "methods": outcome}
    print(f"{device_name(device)} -> {write_outcome('growth', device, content)}")


if __name__ == "__main__":
    main()
