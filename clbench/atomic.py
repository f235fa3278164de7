"""Write a file or a folder in one step, so that a kill leaves the old one or the new one; and read what may be anything.

The libraries for it (atomicwrites, given up by its author; safer) write single files, no folders.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from clbench.errors import ClbenchError, one_line

BEGUN = ".begun"  # in a folder that is being written
LEFTOVER = ".tmp"  # how the names end of what a kill can leave behind


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file beside the path, then move it there in one step; a link there is replaced, not followed.

    The new file has a name that cannot be foreseen, and is made by nobody else, so that no planted link leads the write astray.

    Raises:
        ClbenchError: the folder is missing or not writable, the disk is full, or what is there is no file: a device such as
            /dev/null, which root would replace.
    """
    temporary = _temporary(path)
    try:
        if path.exists() and not path.is_symlink() and not path.is_file():
            raise ClbenchError(f"{path}: is no regular file, and so cannot be replaced; name another")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        _remove(temporary)


def write_folder_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new folder beside the path, then move it there in the place of an older one.

    Raises:
        ClbenchError: as `write_atomically`, or what is there is no folder.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        mark = temporary / BEGUN
        mark.touch()
        write(temporary)
        mark.unlink()  # gone where the folder was removed meanwhile: what writes may have made it again, without what it held
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ClbenchError(f"{path}: a link or a file stands where a folder is to be written; remove it")
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        _remove(temporary)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{LEFTOVER}")


def _cannot_write(path: Path, error: OSError) -> ClbenchError:
    gone = "" if path.parent.is_dir() else f" (there is no folder '{path.parent}')"
    return ClbenchError(f"{path}: cannot be written: {error.strerror or one_line(error)}{gone}")


def _remove(path: Path) -> None:
    """Remove what is left of a temporary file or folder, as far as the disk lets us."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return  # the reason is the one that the write had


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if there is none.

    Raises:
        ClbenchError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ClbenchError(f"'{path}' cannot be made a folder: {reason}") from error


def read_file(path: Path) -> bytes:
    """Return the content of a regular file; of anything else (a pipe, a device) nothing is read, nor waited for.

    Raises:
        OSError: there is no such file, it cannot be read, or is no regular one.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        _check_kind(path, os.fstat(file.fileno()))
        return file.read()


def regular(path: Path) -> Path:
    """Return the path of a regular file, for a library that would wait for anything else.

    Raises:
        OSError: there is no such file, or it is no regular one.
    """
    _check_kind(path, path.stat())
    return path


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
