"""Processes forked from one that has imported everything: a run in a process of its own, without paying for its start."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")  # as `sys.addaudithook` names them


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code (below 0: the signal; None: it hung and was killed) and its standard error."""

    code: int | None
    errors: str


class Child:
    """A forked process in a group of its own that does one thing.

    Args:
        output: a file for its standard output; none: it is dropped.
    """

    def __init__(self, act: Callable[[], object], output: Path | None = None) -> None:
        reading, writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(reading)
            _be_the_child(act, writing, os.devnull if output is None else str(output))
        os.close(writing)
        self._errors = reading

    def kill(self) -> None:
        """Kill the process and those that it has started."""
        try:
            os.killpg(self.process, signal.SIGKILL)
        except ProcessLookupError:
            return

    def wait(self, patience: float = 120.0) -> Ending:
        """Wait for the end of the process and of all that hold its standard error; kill them where it takes too long."""
        end, parts, hung = time.monotonic() + patience, [], False
        while True:
            ready, _, _ = select.select([self._errors], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                hung = True
                self.kill()
                end = time.monotonic() + 10
                continue
            part = os.read(self._errors, 1 << 16)
            if not part:
                break
            parts.append(part)
        os.close(self._errors)
        _, status = os.waitpid(self.process, 0)
        code = None if hung else os.waitstatus_to_exitcode(status)
        return Ending(code, b"".join(parts).decode("utf-8", "replace"))


def _be_the_child(act: Callable[[], object], errors: int, output: str) -> None:
    code = 70
    try:
        os.setsid()
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 1)
        os.dup2(errors, 2)
        os.close(errors)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        act()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(act: Callable[[], object], output: Path | None = None, patience: float = 120.0) -> Ending:
    """Do one thing in a process of its own."""
    return Child(act, output).wait(patience)


class FileEvents:
    """Counts what this process does to the files of a folder; lets something happen just before the one of a number.

    Args:
        at: the number of the event, from 1.
        then: what happens, once. What it raises, the event raises.
    """

    def __init__(self, folder: Path, at: int, then: Callable[[], object]) -> None:
        self.count, self._busy = 0, False
        self._folder, self._at, self._then = str(folder), at, then
        sys.addaudithook(self._note)

    def _note(self, event: str, given: tuple[object, ...]) -> None:
        if event not in FILE_EVENTS or self._busy or not isinstance(given[0], (str, os.PathLike)):
            return
        if not str(given[0]).startswith(self._folder):
            return
        self.count += 1
        if self.count == self._at:
            self._busy = True
            try:
                self._then()
            finally:
                self._busy = False


def die() -> None:
    """Kill this process, as no handler can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


def be_refused() -> None:
    """Take from this process, for good, root's right to pass over what files allow (Linux: two capabilities)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities in 64 bits, of this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the higher bits of each
    if libc.capget(header, sets) == 0:
        sets[0] &= ~0b110  # DAC_OVERRIDE and DAC_READ_SEARCH
        libc.capset(header, sets)


def refuse(code: int) -> Callable[..., None]:
    """Return a function that raises the system's error of a number, whatever it is given."""

    def fail(*given: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def without_locks(code: int) -> None:
    """Let no lock be had in this process."""
    import fcntl

    fcntl.flock = refuse(code)


DISK_IS_FULL = refuse(errno.ENOSPC)
