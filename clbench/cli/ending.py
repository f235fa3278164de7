"""How a command ends: whatever is raised, in one line and an exit code; and how its text gets out, whatever the outlet."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click
from click.exceptions import NoArgsIsHelpError

from clbench.cli.hints import usage_message
from clbench.errors import ClbenchError, ClbenchWarning, one_line, place_of
from clbench.terminal import say

if TYPE_CHECKING:
    from clbench.model.devices import Devices

TRACEBACK = "--traceback"
FAULT = 2
INTERRUPTED = 130


class Interrupted(Exception):  # noqa: N818
    """The user has pressed Ctrl-C."""


class Call(NamedTuple):
    """What a command's context holds: whether `--traceback` was given, and the processes that share the command, if any."""

    traceback: bool
    devices: Devices | None


class Command(click.Group):
    """A group whose commands end in one line and exit code 2 on any error; `--traceback`, wherever it stands, shows the whole.

    Its context's object is a `Call`. Of processes that `torchrun` has started the first one alone says anything.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command that the words name and end the process."""
        words = list(sys.argv[1:] if args is None else args)
        kept = [word for word in words if word != TRACEBACK]
        with outlets(), short_warnings():
            devices = None
            try:
                devices = _join_others()
                with _silence(devices):
                    _check_shared(kept, devices)
                    call = Call(TRACEBACK in words, devices)
                    code = super().main(kept, *rest, **extra | {"standalone_mode": False, "obj": call}) or 0
                if sys.stdout is not None:
                    sys.stdout.flush()
                if devices is not None:
                    devices.leave()
            except SystemExit:  # of shell completion
                raise
            except BaseException as error:
                if TRACEBACK in words:
                    traceback.print_exception(error)
                code = _report(error, words, devices)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what would end the program in another way, wherever it is raised, is an error."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error
        except (SystemExit, EOFError, BrokenPipeError) as error:
            raise ClbenchError(f"{one_line(error)}, raised in {place_of(error)}") from error


def _join_others() -> Devices | None:
    """Meet the other processes that torchrun started; None where this is the only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return None
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch would warn of connections that close when all ends
    from clbench.model.devices import join

    devices = join()
    threading.Thread(target=_watch, args=(devices,), daemon=True, name="watch").start()
    return devices


def _watch(devices: Devices) -> None:
    """End this process where another one has failed: it may wait for what never comes, on a GPU even without an error."""
    from clbench.model.devices import LostProcessError

    if devices.others_failed():
        devices.fail(LostProcessError(), "error: another process of this run has failed", _say_error)
        os._exit(FAULT)


def _say_error(line: str) -> None:
    say(line, err=True)


@contextmanager
def _silence(devices: Devices | None) -> Iterator[None]:
    """Let all processes but the first say nothing."""
    if devices is None or devices.first:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _check_shared(words: Sequence[str], devices: Devices | None) -> None:
    """Check that the command is one that several processes can share.

    Raises:
        ClbenchError: it is none.
    """
    name = next((word for word in words if not word.startswith("-")), "run")
    if devices is not None and name != "run":
        raise ClbenchError(
            f"torchrun has started {devices.count} processes of `clbench {name}`; `clbench run` alone can share its work"
        )


def _report(error: BaseException, words: Sequence[str], devices: Devices | None) -> int:
    """Say in one line what was raised, and return the exit code."""
    if isinstance(error, NoArgsIsHelpError) and devices is None:
        error.show()
        return FAULT
    interrupted = isinstance(error, (Interrupted, KeyboardInterrupt, click.Abort))
    line = "interrupted; the same command goes on after the last finished task"
    if isinstance(error, click.ClickException):
        line = f"error: {' '.join(usage_message(error, words).split())}"
    elif not interrupted:
        line = f"error: {' '.join(_message(error).split())}"
    code = INTERRUPTED if interrupted else FAULT
    if devices is None:
        _say_error(line)
        return code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others as soon as one has ended
    devices.fail(error, line, _say_error)
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(code)  # libraries that are torn down may wait for the others


def _message(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, ClbenchError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{one_line(error)} ({place_of(error)}; {TRACEBACK} shows the whole)"


class Pipe(io.FileIO):
    """A file that goes on without a word when nobody reads any more (`| head`): a run must not end by that."""

    def write(self, data: Any, /) -> int:
        """Write, or drop what nobody reads."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


class Outlet(io.TextIOWrapper):
    """A text stream that outlives its closing, by a plugin or a library: a run must not end by that."""

    def close(self) -> None:
        """Write out what is held back, and stay open."""
        self.flush()


@contextmanager
def outlets() -> Iterator[None]:
    """Let standard output and error take every character, if need be as an escape, and outlive a closed pipe."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _outlet(sys.stdout), _outlet(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _outlet(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")
    raw = stream.buffer.raw if isinstance(stream.buffer, io.BufferedWriter) else stream.buffer
    if type(raw) is not io.FileIO or os.name == "nt":
        return stream
    stream.flush()
    return Outlet(
        io.BufferedWriter(Pipe(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextmanager
def short_warnings() -> Iterator[None]:
    """Print each warning of clbench once, in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ClbenchWarning)
        show, said = warnings.showwarning, set[str]()

        def shorten(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, ClbenchWarning):
                show(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                say(f"warning: {' '.join(str(message).split())}", err=True)

        warnings.showwarning = shorten
        yield
