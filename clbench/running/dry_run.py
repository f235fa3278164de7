"""What a run will take, before it is started: its extent, and time, memory and disk from a short calibration.

The calibration is a real run, in a temporary folder, of at most three of the stream's tasks, cut to a few steps: the first
fills the memory of a rehearsal method, those with the longest and the shortest prompts are timed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table

from clbench.data.tasks import Example, Task
from clbench.encoding.batches import count_batches
from clbench.errors import ClbenchError
from clbench.hookspecs import hookimpl
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, load_backbone_of
from clbench.records.files import RunFiles, read_record
from clbench.records.metrics import cells_to_evaluate
from clbench.running.checkpoints import load_checkpoint
from clbench.running.opening import OpenedRun, RunOpener, cut_short
from clbench.running.protocol import read_progress
from clbench.running.remarks import on_memory
from clbench.running.run import execute_run
from clbench.settings import Settings
from clbench.spec import RunSpec
from clbench.units import duration, size

STEPS = 20  # optimizer steps on new rows, for each of the timed tasks
LONG = 24 * 3600  # seconds; a run that takes longer is worth a warning


@dataclass(frozen=True)
class Extent:
    """What a run comprises: its tasks, how many of them are learned already, and the fault of its checkpoint, if it has one."""

    settings: Settings
    tasks: Sequence[Task]
    done: int
    fault: str = ""

    @property
    def left(self) -> Sequence[Task]:
        """The tasks that are still to be learned."""
        return self.tasks[self.done :]

    @property
    def asked(self) -> list[Task]:
        """The task of each evaluation that is left; `--matrix full` begins with all of them, before the first is learned."""
        count, matrix = len(self.tasks), self.settings.matrix
        before = self.tasks if matrix == "full" and self.done == 0 else ()
        return [*before] + [
            self.tasks[number]
            for after in range(self.done, count)
            for number in cells_to_evaluate(matrix, after, count)
        ]

    @property
    def steps(self) -> int:
        """Optimizer steps on the rows of the tasks that are left; a method's steps on remembered rows come on top."""
        size, least = self.settings.batch_size, self.settings.least_batch
        return sum(count_batches(len(task.train), size, least) for task in self.left) * self.settings.epochs

    @property
    def name(self) -> str:
        """Stream and seed."""
        return f"{self.settings.stream}, seed {self.settings.seed}"


@dataclass(frozen=True)
class Line:
    """Seconds of one row as a line over its tokens."""

    base: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Return the line through the outermost points (tokens, seconds); where it falls, or starts below 0, a simpler one."""
        (low, first), (high, last) = min(points), max(points)
        if high == low or last <= first:
            return cls(mean(seconds for _, seconds in points), 0.0)
        slope = (last - first) / (high - low)
        return cls(first - slope * low, slope) if first >= slope * low else cls(0.0, last / high)

    def seconds(self, tokens: float) -> float:
        """Return the seconds of a row of so many tokens."""
        return self.base + self.slope * tokens


@dataclass(frozen=True)
class Calibration:
    """What the short run showed: seconds of a row in one epoch and of a question, trained weights, bytes.

    Bytes are the memory's peak, a checkpoint, a record, an answer, and the adapter (0 where it is not saved).
    """

    learn: Line
    ask: Line
    weights: int
    device: str
    memory: int
    checkpoint: int
    record: int
    answer: float
    adapter: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take: seconds, bytes that it leaves on disk."""

    learn: float
    ask: float
    disk: int


@dataclass(eq=False)
class CheckpointSize:
    """Note the size of the checkpoint when the next task begins; a plugin that watches the hooks."""

    files: RunFiles
    bytes: int = 0

    @hookimpl(wrapper=True)
    def learn_task(self, learner: Learner, task: Task) -> Generator[None, Mapping[str, float], Mapping[str, float]]:
        """Look before the task is learned."""
        if self.files.checkpoint.exists():
            self.bytes = self.files.checkpoint.stat().st_size
        return (yield)


def show_dry_run(
    console: Console, specs: Sequence[RunSpec], opener: RunOpener, force: bool, save_adapter: bool
) -> None:
    """Print what the runs of one method will do and take. Nothing is left in the results folder, and nothing is refused."""
    runs = [opener.open(spec) for spec in specs]
    found = [_extent(run, force, save_adapter) for run in runs]
    warnings = [f"{extent.name}: {extent.fault}" for extent in found if extent.fault]
    warnings += dict.fromkeys(
        remark.note for run in runs for remark in on_memory(run.method, run.spec.options, run.tasks)
    )
    pending = [(run, extent) for run, extent in zip(runs, found, strict=True) if extent.left]
    estimates: dict[str, Estimate] = {}
    calibrations: dict[Settings, Calibration] = {}
    try:
        if pending:
            with console.status(f"loading backbone {runs[0].settings.backbone}"):
                backbone = load_backbone_of(runs[0].settings)
        for run, extent in pending:
            kind = replace(extent.settings, stream=runs[0].settings.stream, seed=0)  # all but stream and seed
            if kind not in calibrations:
                with console.status(f"calibrating on {backbone.device}: {extent.name}"):
                    calibrations[kind] = calibrate(run, backbone, save_adapter)
            estimates[extent.name] = estimate(extent, calibrations[kind], backbone)
    except ClbenchError as error:
        warnings.append(f"the calibration failed, and so may the run: {error}{_memory_advice(error)}")
    console.print(_table(found, estimates, specs[0].method))
    for line in _totals(estimates, list(calibrations.values())):
        console.print(line, highlight=False)
    left = [extent for _, extent in pending]
    for line in [*warnings, *_warnings(left, estimates, list(calibrations.values()), opener.results)]:
        console.print(f"warning: {line}", style="yellow", highlight=False)


@dataclass(frozen=True)
class Forecast:
    """What runs will take: seconds, one after another on the device; the most memory of one, and disk, in bytes."""

    seconds: float
    memory: int
    disk: int
    device: str


def forecast(specs: Sequence[RunSpec], opener: RunOpener, save_adapter: bool) -> Forecast:
    """Calibrate each kind of run, all of a method but stream and seed, and return what all runs will take from where they are.

    Raises:
        ClbenchError: as the first run that fails in its calibration.
    """
    kinds: dict[RunSpec, list[RunSpec]] = {}
    for spec in specs:
        kinds.setdefault(replace(spec, settings=replace(spec.settings, stream="kind", seed=0)), []).append(spec)
    loaded: tuple[object, Backbone] | None = None
    found: list[Estimate] = []
    calibrations: list[Calibration] = []
    for of_kind in kinds.values():
        runs = [opener.open(spec) for spec in of_kind]
        settings = of_kind[0].settings
        if loaded is None or loaded[0] != settings.backbone_arguments or loaded[1].spoiled:
            loaded = settings.backbone_arguments, load_backbone_of(settings)
        calibrations.append(calibrate(runs[0], loaded[1], save_adapter))
        found += [estimate(_extent(run, False, save_adapter), calibrations[-1], loaded[1]) for run in runs]
    return Forecast(
        seconds=sum(one.learn + one.ask for one in found),
        memory=max(one.memory for one in calibrations),
        disk=sum(one.disk for one in found),
        device=calibrations[0].device,
    )


def _extent(run: OpenedRun, force: bool, save_adapter: bool) -> Extent:
    return Extent(run.settings, run.tasks, *_reached(run, force, save_adapter))


def _reached(run: OpenedRun, force: bool, save_adapter: bool) -> tuple[int, str]:
    """Return how many tasks of a run are finished, and what is wrong with its record or checkpoint."""
    files = run.files
    if force:
        return 0, ""
    try:
        if files.are_complete(save_adapter, with_maps=False):
            read_record(files.record)
            return len(run.tasks), ""
        if files.checkpoint.exists():
            content = load_checkpoint(files.checkpoint, torch.device("cpu"), run.identity)
            return read_progress(files.checkpoint, content, len(run.tasks)).done, ""
    except ClbenchError as error:
        return 0, str(error)
    return 0, ""


def calibrate(run: OpenedRun, backbone: Backbone, save_adapter: bool) -> Calibration:
    """Run the method for a few steps on a few of the run's tasks, in a temporary folder, and return what that took.

    Raises:
        ClbenchError: as the run itself.
    """
    chosen = _cut(run, backbone)
    settings = replace(run.settings, epochs=min(run.settings.epochs, STEPS), matrix="op")
    options = run.method.enlarge_memory(
        run.spec.options, settings.batch_size, len(chosen[0].train)
    )  # a replayed batch is a whole one
    with tempfile.TemporaryDirectory() as folder:
        files = RunFiles(Path(folder), "calibration")
        size = CheckpointSize(files)
        spec = RunSpec(run.spec.method, options, settings)
        record = execute_run(cut_short(run, spec, chosen, files), backbone, [size], save_adapter)
        adapter = sum(path.stat().st_size for path in files.adapter.rglob("*")) if save_adapter else 0
        answers, written = files.answers.stat().st_size, files.record.stat().st_size
    learned, asked = record.timings.learn_seconds, record.timings.evaluate_seconds[-1]
    weights = record.trainable_weights or 0
    if len(learned) < len(chosen):  # all tasks at once
        rows = tuple(row for task in chosen for row in task.train)
        points = [(_tokens(rows, backbone, settings), learned[-1] / len(rows) / settings.epochs)]
    else:
        points = [
            (_tokens(task.train, backbone, settings), seconds / len(task.train) / settings.epochs)
            for task, seconds in list(zip(chosen, learned, strict=True))[-2:]
        ]
    return Calibration(
        Line.through(points),
        Line.through(
            [
                (_tokens(task.test, backbone, settings), seconds / len(task.test))
                for task, seconds in list(zip(chosen, asked, strict=True))[-2:]
            ]
        ),
        weights, record.environment.device or "", record.peak_memory.bytes or 0, size.bytes or 4 * weights, written,
        answers / sum(len(task.test) for task in chosen), adapter,
    )  # fmt: skip


def _cut(run: OpenedRun, backbone: Backbone) -> list[Task]:
    """Return up to three tasks with a few rows each: any, the one with the longest prompts, the one with the shortest.

    The rows are spread evenly over the lengths of their task, the longest one among them: it decides on the memory.
    """
    settings = run.settings
    by_length = sorted(run.tasks, key=lambda task: _tokens(task.train, backbone, settings))
    ends = [by_length[-1], by_length[0]] if len(by_length) > 1 else by_length
    others = [task for task in run.tasks if task not in ends]
    batches = max(1, STEPS // settings.epochs)

    def spread(rows: Sequence[Example], count: int) -> tuple[Example, ...]:
        count = min(count, len(rows))
        lengths = _lengths(rows, backbone, settings)
        order = sorted(range(len(rows)), key=lambda number: -lengths[number])
        return tuple(rows[order[number * len(rows) // count]] for number in range(count))

    return [
        replace(
            task,
            train=spread(task.train, batches * settings.batch_size),
            test=spread(task.test, settings.eval_batch_size),
        )
        for task in [*others[:1], *ends]
    ]


def _lengths(rows: Sequence[Example], backbone: Backbone, settings: Settings) -> list[int]:
    return [len(row.input_ids) for row in Learner(backbone, settings).feed.encoder.encode(rows)]


def _tokens(rows: Sequence[Example], backbone: Backbone, settings: Settings) -> float:
    return mean(_lengths(rows, backbone, settings)) if rows else 0.0


def estimate(extent: Extent, calibration: Calibration, backbone: Backbone) -> Estimate:
    """Return what is left of a run in seconds, and the bytes that it leaves."""
    settings = extent.settings

    def total(line: Line, rows: Sequence[Example]) -> float:
        return line.seconds(_tokens(rows, backbone, settings)) * len(rows)

    return Estimate(
        sum(total(calibration.learn, task.train) for task in extent.left) * settings.epochs,
        sum(total(calibration.ask, task.test) for task in extent.asked),
        calibration.record + calibration.adapter + round(calibration.answer * sum(len(t.test) for t in extent.asked)),
    )


def _table(extents: Sequence[Extent], estimates: Mapping[str, Estimate], method: str) -> Table:
    table = Table("Run", "Tasks", title=f"Dry run: {method}", title_justify="left")
    for column in ("Rows", "Steps", "Evaluations", "Learning", "Evaluating"):
        table.add_column(column, justify="right")
    for extent in extents:
        if not extent.left:
            table.add_row(extent.name, f"{len(extent.tasks)}, finished", *["-"] * 5)
            continue
        took = estimates.get(extent.name)
        table.add_row(
            extent.name,
            f"{len(extent.tasks)}" + (f", {extent.done} finished" if extent.done else ""),
            f"{sum(len(task.train) for task in extent.left):,}",
            f"{extent.steps:,}",
            f"{len(extent.asked):,} ({sum(len(task.test) for task in extent.asked):,} questions)",
            duration(took.learn) if took else "?",
            duration(took.ask) if took else "?",
        )
    return table


def _totals(estimates: Mapping[str, Estimate], calibrations: Sequence[Calibration]) -> list[str]:
    if not calibrations or not estimates:
        return []
    one = max(calibrations, key=lambda calibration: calibration.memory)
    seconds = sum(value.learn + value.ask for value in estimates.values())
    disk = sum(value.disk for value in estimates.values()) + _while_running(calibrations)
    return [
        f"trained: {one.weights:,} weights",
        f"time: about {duration(seconds)} on {one.device} (answers of an untrained model may run longer)",
        f"peak memory: {size(one.memory)}",
        f"disk: {size(disk)}, of which {size(_while_running(calibrations))} only while a run goes on",
    ]


def _while_running(calibrations: Sequence[Calibration]) -> int:
    return 2 * max(
        calibration.checkpoint for calibration in calibrations
    )  # the next one is written before the last goes


def _warnings(
    extents: Sequence[Extent], estimates: Mapping[str, Estimate], calibrations: Sequence[Calibration], results: Path
) -> list[str]:
    lines = []
    for extent in extents:
        took = estimates.get(extent.name)
        cells, fewest = len(extent.asked), 2 * len(extent.tasks) - 1
        if cells > fewest and (took is None or took.ask > took.learn / 2):
            lines.append(
                f"{extent.name}: --matrix {extent.settings.matrix} asks for {cells} evaluations; bwt: {fewest}"
            )
    if not calibrations or not estimates:
        return lines
    seconds = sum(value.learn + value.ask for value in estimates.values())
    if seconds > LONG:
        lines.append(f"{duration(seconds)} is long; a killed run goes on after its last finished task")
    disk, folder = sum(value.disk for value in estimates.values()) + _while_running(calibrations), results.absolute()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if disk > free:
        lines.append(f"{size(disk)} of disk are needed, {size(free)} are free at {results}")
    memory, there = max(calibration.memory for calibration in calibrations), _device_memory(extents[0])
    if memory > 0.9 * there:
        lines.append(
            f"{size(memory)} of {size(there)} memory: close to the limit; see --micro-batch, --eval-batch-size"
        )
    return lines


def _device_memory(extent: Extent) -> int:
    if torch.cuda.is_available() and extent.settings.device.startswith(("auto", "cuda")):
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_advice(error: ClbenchError) -> str:
    return "; try --micro-batch 1" if isinstance(error.__cause__, torch.OutOfMemoryError) else ""
