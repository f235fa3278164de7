"""Make runs one after another in one process: data and backbone are loaded once, what is finished is not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from rich.console import Console

from clbench.errors import ClbenchError, one_line
from clbench.model.backbone import Backbone, load_backbone_of
from clbench.model.devices import ALONE, Devices
from clbench.records.files import RunFiles, read_record
from clbench.records.record import Record
from clbench.records.summary import disagreement_text, summarise
from clbench.running.opening import OpenedRun, RunOpener
from clbench.running.remarks import on_processes
from clbench.running.run import execute_run, remarks_beforehand
from clbench.running.watchers.map_log import MapLog
from clbench.running.watchers.progress import ProgressDisplay
from clbench.running.watchers.progress_log import ProgressLog
from clbench.running.watchers.tracking import TrackingWatcher
from clbench.spec import RunSpec
from clbench.tracking import UNTRACKED, Tracking
from clbench.units import TEN_MINUTES, Every


class RunMaker:
    """Makes runs in one process and keeps what they share: what the opener keeps, and the backbone of the last run.

    Args:
        force: repeat finished runs.
        save_adapter: keep the trained adapter.
        log_maps: keep importance and task vectors (`clbench.records.maps`); what they are made of within a task is carried
            through no kill, so that the run goes on from its last finished task.
        devices: the processes that share each run. The first one alone reads and writes its files, and says how it goes.
        every: how often a run is written down within a task.
        tracking: the experiment trackers that are told of each run.
    """

    def __init__(
        self,
        console: Console,
        opener: RunOpener,
        force: bool = False,
        save_adapter: bool = False,
        log_maps: bool = False,
        devices: Devices = ALONE,
        every: Every = TEN_MINUTES,
        tracking: Tracking = UNTRACKED,
    ) -> None:
        self.console = console
        self.opener = opener
        self.force = force
        self.save_adapter = save_adapter
        self.log_maps = log_maps
        self.devices = devices
        self.every = Every() if log_maps else every
        self.tracking = tracking
        self._loaded: tuple[object, Backbone] | None = None  # what it was asked for by, and the backbone

    def make(self, spec: RunSpec, others: Sequence[object] = ()) -> Record:
        """Make one run, from its checkpoint if there is one, unless it is finished; return its record.

        Args:
            others: plugins that watch it beside the usual ones.
        """
        opened = self.opener.open(spec)
        check_devices(opened, self.devices)
        with ExitStack() as held:
            finished = self.devices.first_does(partial(self._finished_or_held, opened.files, held))
            return finished or self._make_held(spec, opened, others)

    def _finished_or_held(self, files: RunFiles, held: ExitStack) -> Record | None:
        """Return a finished run's record; without one, hold the run until `held` is closed."""
        if self.is_finished(files):
            return read_record(files.record)
        held.enter_context(files.lock())
        if self.is_finished(files):  # by another process, in the meantime
            return read_record(files.record)
        if self.force:
            files.forget_progress()
        return None

    def _make_held(self, spec: RunSpec, opened: OpenedRun, others: Sequence[object]) -> Record:
        backbone = self.backbone(spec)
        audit = self.opener.audit(spec.settings)
        if audit.errors:
            self.console.print(f"errors in the data: {audit.errors}; see `clbench audit`", style="yellow")
        early = [remark.note for remark in remarks_beforehand(opened, backbone.tokenizer)]
        self._warn(early)
        watchers = [*self.watchers(spec), *others]
        record = execute_run(opened, backbone, watchers, self.save_adapter, audit, self.devices, self.every)
        self.console.print(f"{summarise(record)} -> {opened.files.record}", highlight=False)
        said = [*early, on_processes(self.devices.count)]
        self._warn([note for note in record.notes if note not in said])
        if disagreement_text(record):
            self.console.print(disagreement_text(record), highlight=False)
        return record

    def _warn(self, notes: Sequence[str]) -> None:
        for note in notes:
            self.console.print(f"warning: {note}", style="yellow", highlight=False, markup=False)

    def is_finished(self, files: RunFiles) -> bool:
        """Return, and say, whether all that is wanted of a run is there; never with `force`."""
        finished = not self.force and files.are_complete(self.save_adapter, self.log_maps)
        if finished:
            self.console.print(f"already finished: {summarise(read_record(files.record))} (--force repeats it)")
        return finished

    def backbone(self, spec: RunSpec) -> Backbone:
        """Return a run's backbone, loaded unless it is that of the last run, and still as it was."""
        wanted = spec.settings.backbone_arguments
        if self._loaded is not None and self._loaded[1].spoiled:
            first, *more = self._loaded[1].spoiled
            others = f" and {len(more)} more" if more else ""
            line = f"the last run changed its frozen backbone ({first}{others}): it is loaded anew"
            self.console.print(line, style="yellow", highlight=False, markup=False)
            self._loaded = None
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # two at a time may not fit
            with self.console.status(f"loading backbone {spec.settings.backbone}"):
                self._loaded = wanted, load_backbone_of(self.devices.placed(spec.settings))
        return self._loaded[1]

    @property
    def loaded(self) -> object:
        """What the loaded backbone was asked for by (`Settings.backbone_arguments`); none where none is loaded."""
        return None if self._loaded is None else self._loaded[0]

    def watchers(self, spec: RunSpec) -> list[object]:
        """Return the plugins that watch a run."""
        maps: list[object] = [MapLog()] if self.log_maps else []
        if not self.devices.first:
            return maps
        moving = self.console.is_terminal or self.console.is_jupyter
        trackers = [TrackingWatcher(name, self.tracking.group) for name in self.tracking.trackers]
        return [ProgressDisplay(self.console, str(spec)) if moving else ProgressLog(str(spec)), *maps, *trackers]

    def make_all(self, specs: Sequence[RunSpec]) -> tuple[list[Record], dict[str, Exception]]:
        """Make the runs one after another; say why one failed and go on with the next.

        Returns:
            The records of those made, and of the others what failed, with its error.
        """
        made: list[Record] = []
        failures: dict[str, Exception] = {}
        for number, spec in enumerate(specs, 1):
            self.console.print(f"run {number} of {len(specs)}", highlight=False)
            try:
                made.append(self.make(spec))
            except Exception as error:  # the other runs do not depend on this one
                if self.devices.count > 1:  # but no process can go on alone
                    raise
                text = f"{spec}: {error if isinstance(error, ClbenchError) else one_line(error)}"
                failures[text] = error
                self.console.print(f"failed: {text}", style="red", highlight=False, markup=False)
        return made, failures


def check_devices(opened: OpenedRun, devices: Devices) -> None:
    """Check that a run can be shared by processes, if there are several.

    Raises:
        ClbenchError: its method is not made for it, or they read different things.
    """
    if devices.count == 1:
        return
    method = opened.method
    if not method.about.several_devices:
        raise ClbenchError(
            f"method '{method.name}' ({method.origin}) is not for several devices: its numbers could be others than those of one "
            f"process, since it does not declare About(several_devices=True); run it without torchrun"
        )
    if len(set(devices.gather(opened.identity))) > 1:
        raise ClbenchError(
            "the processes do not read the same data, sources and weights; start them with the same files"
        )
