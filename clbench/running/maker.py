"""Make runs one after another in one process: data and backbone are loaded once, what is finished is not repeated."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from clbench.errors import ClbenchError, one_line
from clbench.model.backbone import Backbone, load_backbone_of
from clbench.records.files import RunFiles, read_record
from clbench.records.record import Record
from clbench.records.summary import disagreement_text, summarise
from clbench.running.opening import OpenedRun, RunOpener
from clbench.running.remarks import on_memory
from clbench.running.run import execute_run
from clbench.running.watchers.map_log import MapLog
from clbench.running.watchers.progress import ProgressDisplay
from clbench.running.watchers.progress_log import ProgressLog
from clbench.spec import RunSpec


class RunMaker:
    """Makes runs in one process and keeps what they share: what the opener keeps, and the backbone of the last run.

    Args:
        force: repeat finished runs.
        save_adapter: keep the trained adapter.
        log_maps: keep importance and task vectors (`clbench.records.maps`).
    """

    def __init__(
        self,
        console: Console,
        opener: RunOpener,
        force: bool = False,
        save_adapter: bool = False,
        log_maps: bool = False,
    ) -> None:
        self.console = console
        self.opener = opener
        self.force = force
        self.save_adapter = save_adapter
        self.log_maps = log_maps
        self._loaded: tuple[object, Backbone] | None = None  # what it was asked for by, and the backbone

    def make(self, spec: RunSpec) -> Record:
        """Make one run, from its checkpoint if there is one, unless it is finished; return its record."""
        opened = self.opener.open(spec)
        if self.is_finished(opened.files):
            return read_record(opened.files.record)
        with opened.files.lock():
            return self._make_locked(spec, opened)

    def _make_locked(self, spec: RunSpec, opened: OpenedRun) -> Record:
        if self.is_finished(opened.files):  # by another process, in the meantime
            return read_record(opened.files.record)
        if self.force:
            opened.files.checkpoint.unlink(missing_ok=True)
        backbone = self.backbone(spec)
        audit = self.opener.audit(spec.settings)
        if audit.errors:
            self.console.print(f"errors in the data: {audit.errors}; see `clbench audit`", style="yellow")
        early = [remark.note for remark in on_memory(opened.method, spec.options, opened.tasks)]
        self._warn(early)
        record = execute_run(opened, backbone, self.watchers(spec), self.save_adapter, audit)
        self.console.print(f"{summarise(record)} -> {opened.files.record}", highlight=False)
        self._warn([note for note in record.notes if note not in early])
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
                self._loaded = wanted, load_backbone_of(spec.settings)
        return self._loaded[1]

    @property
    def loaded(self) -> object:
        """What the loaded backbone was asked for by (`Settings.backbone_arguments`); none where none is loaded."""
        return None if self._loaded is None else self._loaded[0]

    def watchers(self, spec: RunSpec) -> list[object]:
        """Return the plugins that watch a run."""
        moving = self.console.is_terminal or self.console.is_jupyter
        shown = ProgressDisplay(self.console, str(spec)) if moving else ProgressLog(str(spec))
        return [shown, *([MapLog()] if self.log_maps else [])]

    def make_all(self, specs: Sequence[RunSpec]) -> dict[str, Exception]:
        """Make the runs one after another; say why one failed and go on with the next. Return what failed, and its error."""
        failures: dict[str, Exception] = {}
        for number, spec in enumerate(specs, 1):
            self.console.print(f"run {number} of {len(specs)}", highlight=False)
            try:
                self.make(spec)
            except Exception as error:  # the other runs do not depend on this one
                text = f"{spec}: {error if isinstance(error, ClbenchError) else one_line(error)}"
                failures[text] = error
                self.console.print(f"failed: {text}", style="red", highlight=False, markup=False)
        return failures
