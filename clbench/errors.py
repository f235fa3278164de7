"""The errors a user can cause: each message is one line that names the fault, the place and the alternatives."""

import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clbench.names import nearest

MANY = 20  # names of which a message shows the first few alone
SHOWN = 8


class ClbenchError(Exception):
    """Something the user can put right; the command line prints it and ends with exit code 2."""


class ClbenchWarning(UserWarning):
    """Something that was passed over so that the rest could be done; the command line prints it in one line."""


class RunHeldError(ClbenchError):
    """Another process makes this run just now."""


def unknown(kind: str, name: object, known: Iterable[object], listing: str = "") -> ClbenchError:
    """Return the error for a name that is not known, with the names that come near, and all of them where they are few.

    Args:
        listing: the command that lists them all.
    """
    names = [str(item) for item in known]
    near = [] if str(name) in names else nearest(str(name), names)  # "did you mean" what was asked for helps nobody
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    if len(names) <= MANY:
        listed = f"known: {', '.join(names) or 'none'}"
    else:
        few = "" if near else f"{', '.join(names[:SHOWN])} ... "
        listed = f"{few}{len(names)} are known" + (f": `{listing}`" if listing else "")
    return ClbenchError(f"no {kind} {str(name)!r}{hint} ({listed})")


def one_line(error: BaseException) -> str:
    """Return the error's type and message on one line, cut at 300 characters."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error of a plugin's own class
        text = "(its message cannot be shown)"
    return f"{type(error).__name__}: {text}"[:300]


def place_of(error: BaseException, file: str | None = None) -> str:
    """Return 'FILE, line N': the innermost line of a plugin that an error went through; without one, of clbench, or any.

    Args:
        file: the plugin's, where it is known; needed for one that is installed.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    plugins = [frame for frame in frames if frame.filename == file or _origin(frame.filename) == "plugin"]
    rooms = [frame for frame in frames if _origin(frame.filename) == "clbench"]
    chosen = plugins or rooms or frames
    return f"{chosen[-1].filename}, line {chosen[-1].lineno}" if chosen else "an unknown place"


def _origin(file: str) -> str:
    """Return whether a source file is of a 'plugin', a 'library' or a room of 'clbench'."""
    path, rooms = Path(file), Path(__file__).parent
    if path.is_relative_to(rooms):
        return "plugin" if path.is_relative_to(rooms / "plugins") else "clbench"
    library = (
        file.startswith("<") or "site-packages" in path.parts or path.is_relative_to(sysconfig.get_paths()["stdlib"])
    )
    return "library" if library else "plugin"


@contextmanager
def blame(deed: str, file: str | None = None) -> Iterator[None]:
    """Turn whatever a plugin raises, `sys.exit()` included, into an error that names the deed, the file and the line.

    Args:
        deed: what failed, "method 'ewc' failed on task 'agnews'".
        file: the plugin's file.

    Raises:
        ClbenchError: something was raised; one of its own passes as it is.
    """
    try:
        yield
    except (ClbenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ClbenchError(f"{deed}: {one_line(error)} ({place_of(error, file)})") from error
