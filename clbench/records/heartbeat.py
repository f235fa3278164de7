"""A file beside a run that says, while it is being made: by whom, since when, how far. It stops where its process does."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import msgspec

from clbench.atomic import read_file, write_atomically
from clbench.errors import ClbenchError, RunHeldError
from clbench.records.files import RunFiles
from clbench.units import duration

EVERY = 5.0  # seconds between two beats
STALE = 60.0  # seconds without a beat after which a process on another machine counts as dead


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is: task `task` of `tasks`, and in it step `step` of `steps`; `seconds_left` is none where nothing tells."""

    task: int = 0
    tasks: int = 0
    name: str = ""
    doing: str = "begin"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds_left: float | None = None

    @property
    def text(self) -> str:
        """The position in a line: 'task 3/15 yahoo, step 120/315, loss 0.71, ETA 14 min'."""
        if not self.tasks:
            return "begins"
        asked = "ask " if self.doing == "ask" else ""
        parts = [f"task {self.task}/{self.tasks} {asked}{self.name}"]
        if self.steps:
            parts.append(f"step {self.step}/{self.steps}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.2f}")
        if self.seconds_left is not None:
            parts.append(f"ETA {duration(self.seconds_left)}")
        return ", ".join(parts)


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One beat: the process and its machine, when it began and was last alive (seconds since 1970), how far it is."""

    host: str
    process: int
    since: float
    at: float
    position: Position = Position()

    @property
    def is_alive(self) -> bool:
        """Whether the process still makes the run. On this machine it is looked for; on another one its last beat is young."""
        if time.time() - self.at > STALE:
            return False
        return self.host != socket.gethostname() or _is_running(self.process)


def read_beat(files: RunFiles) -> Beat | None:
    """Return a run's last beat, if its process lives."""
    try:
        beat = msgspec.json.decode(read_file(files.heartbeat), type=Beat)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return beat if beat.is_alive else None


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a killed process stays as a zombie until its parent has asked for it
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


class Heartbeat:
    """Beats while the context is open. It also keeps a second process away where the file system knows no locks.

    Two processes that take up a dead one's run in the same instant may both make it: they write the same bytes.

    Raises:
        RunHeldError: another process beats.
    """

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self._position = Position()
        self._since = time.time()
        self._end = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._go_on, daemon=True, name="heartbeat")

    def __enter__(self) -> Heartbeat:
        other = read_beat(self.files)
        if other is not None and (other.host, other.process) != (socket.gethostname(), os.getpid()):
            raise RunHeldError(f"{self.files.record} is being made by process {other.process} on {other.host}")
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        self.files.heartbeat.unlink(missing_ok=True)

    def note(self, position: Position) -> None:
        """Say how far the run is; a new task or activity is written at once, a step with the next beat."""
        before, self._position = self._position, position
        if (before.task, before.doing) != (position.task, position.doing):
            self._beat()

    def _go_on(self) -> None:
        while not self._end.wait(EVERY):
            self._beat()

    def _beat(self) -> None:
        host, process = socket.gethostname(), os.getpid()
        beat = Beat(host=host, process=process, since=self._since, at=time.time(), position=self._position)
        content = msgspec.json.encode(beat)
        try:
            with self._writing:
                write_atomically(self.files.heartbeat, lambda path: path.write_bytes(content))
        except ClbenchError:
            return  # a full disk or a folder that is gone is for the record to tell; a missed beat does no harm
