"""One process that makes runs one after another for a sweep, on any engine, and says how each of them ended."""

from __future__ import annotations

import io
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from clbench.atomic import write_atomically
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError, RunHeldError
from clbench.logs import LogSettings
from clbench.records.files import RunFiles
from clbench.records.summary import summarise
from clbench.running.maker import RunMaker
from clbench.running.opening import RunOpener
from clbench.running.study import StudySpec, open_study
from clbench.running.tuning import tune
from clbench.spec import RunSpec
from clbench.tracking import UNTRACKED, Tracking
from clbench.units import TEN_MINUTES, Every

LAST_LINES = 15  # of a traceback, kept of a failed run


@dataclass(frozen=True)
class Setup:
    """What every worker of a sweep is told once.

    `threads` are for runs whose settings name no number (none: PyTorch's choice); `every` is how often a run is written down
    within a task.
    """

    results: str
    plugins: tuple[str, ...] = ()
    save_adapter: bool = False
    log_maps: bool = False
    threads: int | None = None
    every: Every = TEN_MINUTES
    logs: LogSettings = field(default_factory=LogSettings)
    tracking: Tracking = UNTRACKED

    def is_done(self, files: RunFiles) -> bool:
        """Return whether all that is wanted of a run is there."""
        return files.are_complete(self.save_adapter, self.log_maps)


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended: done (`text`: its scores in a line), failed (the last lines), died with its process
    (how), or held by another process.
    """

    state: Literal["done", "failed", "died", "held"]
    text: str


class Worker:
    """Makes runs; keeps plugins, data and the backbone from one to the next."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.threads = setup.threads or torch.get_num_threads()
        setup.logs.apply()
        opener = RunOpener(find_plugins(setup.plugins), Path(setup.results))
        console = Console(file=io.StringIO(), quiet=True)  # what there is to say, is in the outcome
        self.maker = RunMaker(
            console, opener, False, setup.save_adapter, setup.log_maps, every=setup.every, tracking=setup.tracking
        )

    def make(self, spec: RunSpec) -> Outcome:
        """Make one run, or the trials of a study, from its checkpoint if there is one, unless it is done."""
        torch.set_num_threads(spec.settings.threads or self.threads)
        files: RunFiles | None = None
        try:
            if isinstance(spec, StudySpec):
                files = open_study(spec, self.maker.opener)
                return Outcome("done", tune(spec, self.maker))
            files = self.maker.opener.open(spec).files
            return Outcome("done", summarise(self.maker.make(spec)))
        except RunHeldError as error:
            return Outcome("held", str(error))
        except ClbenchError as error:
            text = f"error: {error}"
            if error.__cause__ is not None:  # a method's own fault: where it is
                text = "\n".join([*_last_lines(error.__cause__), text])
        except Exception as error:  # the other runs do not depend on this one
            text = "\n".join(_last_lines(error))
        if files is not None:
            note_failure(files, text)
        return Outcome("failed", text)


def note_failure(files: RunFiles, text: str) -> None:
    """Write why a run failed beside where its record would be, if the folder can be written: that may be why."""
    with suppress(OSError, ClbenchError):
        write_atomically(files.failure, lambda path: path.write_text(text + "\n", "utf-8", "backslashreplace"))


def _last_lines(error: BaseException) -> list[str]:
    return "".join(traceback.format_exception(error)).rstrip().splitlines()[-LAST_LINES:]
