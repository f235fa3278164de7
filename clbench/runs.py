"""Make runs one after another in one process: data and backbone are loaded once, what is finished is not repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .errors import ClbenchError
from .settings import Settings
from .streams import Stream
from .verification import disagreement_text

if TYPE_CHECKING:
    from .discovery import Method, Plugins


@dataclass(frozen=True)
class Plan:
    """One run to be made: what `clbench run` would be given."""

    method: Method
    options: Mapping[str, Any]
    stream: Stream
    settings: Settings


def make_runs(
    console: Console,
    plans: Sequence[Plan],
    plugins: Plugins,
    results: Path,
    force: bool = False,
    save_adapter: bool = False,
    log_maps: bool = False,
    go_on: bool = False,
) -> None:
    """Make the runs in their order; a backbone is loaded when another one than the last is asked for.

    Args:
        force: repeat finished runs.
        save_adapter: keep the trained adapter.
        log_maps: keep importance and task vectors (`clbench.maps`).
        go_on: print why a run failed and go on with the next one, instead of raising.
    """
    from .audit import audit_stream
    from .backbone import load_backbone_of
    from .map_log import MapLog
    from .progress import ProgressDisplay, summarise
    from .protocol import execute_run, run_files
    from .sources import Selection, make_tasks, open_source
    from .store import read_record

    backbone, loaded = None, None
    read_once, audit_once = cache(open_source), cache(audit_stream)

    def make_run(plan: Plan) -> None:
        nonlocal backbone, loaded
        settings, stream = plan.settings, plan.stream
        source = read_once(settings.data, settings.layout, stream if stream.read else None)
        tasks = make_tasks(source, stream, Selection.of(settings), settings.superni_metric)
        files = run_files(results, settings, plan.method, plan.options, tasks)
        extras = (files.adapter.exists() or not save_adapter) and (files.maps.exists() or not log_maps)
        if files.record.exists() and extras and not force:
            console.print(f"already finished: {summarise(read_record(files.record))} (--force repeats it)")
            return
        if force:
            files.checkpoint.unlink(missing_ok=True)
        wanted = settings.backbone_arguments
        if wanted != loaded:
            backbone = loaded = None  # two at a time may not fit
            with console.status(f"loading backbone {settings.backbone}"):
                backbone, loaded = load_backbone_of(settings), wanted
        assert backbone is not None
        watchers: list[object] = [ProgressDisplay(console, f"{plan.method.name}, {stream.name}, seed {settings.seed}")]
        verdict = audit_once(source, stream).verdict
        if verdict["errors"]:
            console.print(f"errors in the data: {verdict['errors']}; see `clbench audit`", style="yellow")
        if log_maps:
            watchers.append(MapLog())
        record = execute_run(
            settings,
            stream,
            tasks,
            backbone,
            plugins,
            plan.method,
            plan.options,
            files,
            watchers,
            save_adapter,
            verdict,
        )
        console.print(f"{summarise(record)} -> {files.record}", highlight=False)
        if disagreement_text(record):
            console.print(disagreement_text(record), highlight=False)

    for number, plan in enumerate(plans, 1):
        if go_on:
            console.print(f"run {number} of {len(plans)}", highlight=False)
        try:
            make_run(plan)
        except ClbenchError as error:
            if not go_on:
                raise
            console.print(f"failed: {error}", style="red", highlight=False, markup=False)
