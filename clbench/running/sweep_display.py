"""What a sweep shows: one live table under a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clbench.records.heartbeat import read_beat
from clbench.running.sweep import SweepRun
from clbench.running.worker import Outcome
from clbench.units import duration

LOGGER = logging.getLogger("clbench.sweep")


class SweepDisplay:
    """Prints a line a finished run to the console; shows the running ones, as their heartbeats tell, while its context is open.

    Args:
        total: the runs of the sweep; `done`: how many of them were done before.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self.console = console
        self.total = total
        self.done = self._before = done
        self.failed = 0
        self._begun = time.monotonic()
        self._running: Sequence[SweepRun] = ()
        self._left = total - done
        self._live = Live(console=console, transient=True, refresh_per_second=2, get_renderable=self._table)

    def __enter__(self) -> SweepDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def tell(self, run: SweepRun, outcome: Outcome, final: bool) -> None:
        """Print how an attempt ended."""
        last = outcome.text.rpartition("\n")[2]
        fields = {"run": str(run.spec), "state": outcome.state, "final": final}
        if outcome.state == "done":
            self.done += 1
            self._print(f"{self.done} of {self.total}: {outcome.text} -> {run.files.record}")
        elif outcome.state == "held":
            LOGGER.info("%s: %s; it is waited for", run.spec, outcome.text, extra={"fields": fields})
        elif final:
            self.failed += 1
            self._print(f"failed: {run.spec}\n{_indented(outcome.text)}", "red")
        else:
            LOGGER.warning("%s: %s; it is tried again", run.spec, last, extra={"fields": fields})

    def look(self, running: Sequence[SweepRun], left: int) -> None:
        """Keep what the table is to show; a thread draws it anew twice a second."""
        self._running, self._left = running, left

    def _table(self) -> Group:
        running = self._running
        table = Table.grid(padding=(0, 2))
        for run in running:
            beat = read_beat(run.files)
            table.add_row(Text(str(run.spec), "bold"), Text("begins" if beat is None else beat.position.text))
        bar = ProgressBar(total=self.total, completed=self.done + self.failed, width=30)
        line = Table.grid(padding=(0, 2))
        line.add_row(bar, Text(self._summary(len(running), self._left)))
        return Group(line, table)

    def _summary(self, running: int, left: int) -> str:
        parts = [f"{self.done} of {self.total} done", f"{running} running", f"{left} waiting"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        made = self.done - self._before
        if made:
            parts.append(f"ETA {duration((time.monotonic() - self._begun) / made * (left + running))}")
        return ", ".join(parts)

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
