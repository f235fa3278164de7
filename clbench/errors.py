"""The errors a user can cause: each message is one line that names the fault, the place and the alternatives."""

from collections.abc import Iterable
from difflib import get_close_matches


class ClbenchError(Exception):
    """Something the user can put right; the command line prints it and ends with exit code 2."""


def unknown(kind: str, name: object, known: Iterable[object]) -> ClbenchError:
    """Return the error for a name that is not known, with the nearest known name and the whole list."""
    names = [str(item) for item in known]
    near = get_close_matches(str(name), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return ClbenchError(f"no {kind} {str(name)!r}{hint} (known: {', '.join(names) or 'none'})")


def one_line(error: BaseException) -> str:
    """Return the error's type and message on one line, cut at 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
