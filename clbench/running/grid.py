"""Make runs one after another in one process: data and backbone are loaded once, what is finished is not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from clbench.errors import ClbenchError
from clbench.records.files import RunFiles, read_record
from clbench.records.summary import disagreement_text, summarise
from clbench.running.watchers.progress import ProgressDisplay
from clbench.spec import Plan

if TYPE_CHECKING:
    from clbench.discovery import Plugins
    from clbench.model.backbone import Backbone


class RunMaker:
    """Makes runs in one process and keeps what they share: data, verdicts on them, and the backbone of the last run.

    Args:
        force: repeat finished runs.
        save_adapter: keep the trained adapter.
        log_maps: keep importance and task vectors (`clbench.records.maps`).
    """

    def __init__(
        self,
        console: Console,
        plugins: Plugins,
        results: Path,
        force: bool = False,
        save_adapter: bool = False,
        log_maps: bool = False,
    ) -> None:
        from clbench.data.audit import audit_stream
        from clbench.data.sources import open_source

        self.console = console
        self.plugins = plugins
        self.results = results
        self.force = force
        self.save_adapter = save_adapter
        self.log_maps = log_maps
        self._open, self._audit = cache(open_source), cache(audit_stream)
        self._loaded: tuple[object, Backbone] | None = None  # what it was asked for by, and the backbone

    def make(self, plan: Plan) -> None:
        """Make one run, from its checkpoint if there is one, unless it is finished."""
        from clbench.data.sources import Selection, make_tasks
        from clbench.running.run import execute_run, run_files

        settings, stream = plan.settings, plan.stream
        source = self._open(settings.data, settings.layout, stream if stream.read else None)
        tasks = make_tasks(source, stream, Selection.of(settings), settings.superni_metric)
        files = run_files(self.results, settings, plan.method, plan.options, tasks)
        if self.is_finished(files):
            return
        if self.force:
            files.checkpoint.unlink(missing_ok=True)
        backbone = self.backbone(plan)
        verdict = self._audit(source, stream).verdict
        if verdict["errors"]:
            self.console.print(f"errors in the data: {verdict['errors']}; see `clbench audit`", style="yellow")
        record = execute_run(
            settings, stream, tasks, backbone, self.plugins, plan.method, plan.options, files, self.watchers(plan),
            self.save_adapter, verdict,
        )  # fmt: skip
        self.console.print(f"{summarise(record)} -> {files.record}", highlight=False)
        if disagreement_text(record):
            self.console.print(disagreement_text(record), highlight=False)

    def is_finished(self, files: RunFiles) -> bool:
        """Return, and say, whether all that is wanted of a run is there; never with `force`."""
        extras = (files.adapter.exists() or not self.save_adapter) and (files.maps.exists() or not self.log_maps)
        finished = files.record.exists() and extras and not self.force
        if finished:
            self.console.print(f"already finished: {summarise(read_record(files.record))} (--force repeats it)")
        return finished

    def backbone(self, plan: Plan) -> Backbone:
        """Return a run's backbone, loaded unless it is that of the last run."""
        from clbench.model.backbone import load_backbone_of

        wanted = plan.settings.backbone_arguments
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # two at a time may not fit
            with self.console.status(f"loading backbone {plan.settings.backbone}"):
                self._loaded = wanted, load_backbone_of(plan.settings)
        return self._loaded[1]

    def watchers(self, plan: Plan) -> list[object]:
        """Return the plugins that watch a run."""
        from clbench.running.watchers.map_log import MapLog

        title = f"{plan.method.name}, {plan.stream.name}, seed {plan.settings.seed}"
        return [ProgressDisplay(self.console, title), *([MapLog()] if self.log_maps else [])]

    def make_all(self, plans: Sequence[Plan]) -> None:
        """Make the runs one after another; say why one failed and go on with the next."""
        for number, plan in enumerate(plans, 1):
            self.console.print(f"run {number} of {len(plans)}", highlight=False)
            try:
                self.make(plan)
            except ClbenchError as error:  # the other runs do not depend on this one
                self.console.print(f"failed: {error}", style="red", highlight=False, markup=False)
