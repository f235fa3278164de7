"""The files of a run: their names, and how its record and answers are written (atomically) and read."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clbench.atomic import make_folder, read_file, write_atomically
from clbench.errors import ClbenchError, ClbenchWarning, RunHeldError, one_line, unknown
from clbench.records.answers import AnswerRow, compressed, stored
from clbench.records.record import Record, decode_record, encode_record
from clbench.spec import RunSpec

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"  # how the names of locks end
MOST_NAMED = 5  # subfolders that a message names
BEAT = ".heartbeat"  # and those of heartbeats


def slug(text: str) -> str:
    """Return the last part of a name or path as something that fits into a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(text).name).strip("-")[:24] or "x"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run: `NAME.json`, `NAME.answers.jsonl`, where asked for `NAME.adapter/` and `NAME.maps.safetensors`, and
    until it is done `NAME.checkpoint`, within a task `NAME.bookmark`, and where it is tracked `NAME.tracking`.
    """

    folder: Path
    name: str

    @classmethod
    def of(cls, folder: Path, spec: RunSpec, identity: str) -> RunFiles:
        """Return the files of a run in a folder; another identity (a hexadecimal digest) has other files."""
        parts = [spec.stream, spec.method, spec.settings.backbone, spec.settings.data]
        return cls(folder, f"{'_'.join(slug(part) for part in parts)}_s{spec.seed}_{identity[:8]}")

    @property
    def record(self) -> Path:
        """The finished run's record."""
        return self.folder / f"{self.name}.json"

    @property
    def answers(self) -> Path:
        """The finished run's answers, one JSON line a question."""
        return self.folder / f"{self.name}.answers.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The unfinished run's state after its last finished task."""
        return self.folder / f"{self.name}.checkpoint"

    @property
    def bookmark(self) -> Path:
        """Where the unfinished run stood within a task when it was last written down (`clbench.learning.bookmarks`)."""
        return self.folder / f"{self.name}.bookmark"

    @property
    def are_begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.checkpoint.exists() or self.bookmark.exists()

    @property
    def tracking(self) -> Path:
        """While the run is not done: the key under which trackers know it (`clbench.running.watchers.tracking`)."""
        return self.folder / f"{self.name}.tracking"

    def forget_progress(self) -> None:
        """Remove what the run would go on from."""
        self.tracking.unlink(missing_ok=True)
        self.bookmark.unlink(missing_ok=True)
        self.checkpoint.unlink(missing_ok=True)

    @property
    def heartbeat(self) -> Path:
        """While the run is being made: by whom, and how far it is (`clbench.records.heartbeat`)."""
        return self.folder / f".{self.name}{BEAT}"

    @property
    def failure(self) -> Path:
        """Why the run failed when it was last tried, until it is done."""
        return self.folder / f"{self.name}.failed"

    @property
    def adapter(self) -> Path:
        """The finished run's adapter in PEFT format, with `--save-adapter`."""
        return self.folder / f"{self.name}.adapter"

    def are_complete(self, with_adapter: bool, with_maps: bool) -> bool:
        """Return whether the run is finished and all that is wanted of it is there."""
        wanted = [self.record, stored(self.answers), *[self.adapter] * with_adapter, *[self.maps] * with_maps]
        return all(path.exists() for path in wanted)

    @property
    def maps(self) -> Path:
        """The finished run's maps (`clbench.records.maps`), with `--log-maps`."""
        return self.folder / f"{self.name}.maps.safetensors"

    def write_record(self, record: Record, answers: Sequence[AnswerRow]) -> None:
        """Write answers and record; the record last, since it says that the run is finished."""
        lines = msgspec.json.Encoder().encode_lines(answers)
        write_atomically(self.answers, lambda path: path.write_bytes(lines))
        compressed(self.answers).unlink(missing_ok=True)  # those of the record that is replaced
        write_atomically(self.record, lambda path: path.write_bytes(encode_record(record)))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this run for one process.

        Raises:
            RunHeldError: another process holds it. Where the file system has no locks, its heartbeat alone tells.
            ClbenchError: the lock cannot be had for another reason, or the folder is gone at the end.
        """
        from filelock import FileLock, Timeout  # here: reading records must stay quick

        make_folder(self.folder)
        path = self.folder / f".{self.name}{LOCK}"
        if path.is_symlink():  # whoever made it leads the lock elsewhere
            raise ClbenchError(f"{path}: a link stands where a lock is to be; remove it")
        # A soft lock, which takes any file there for a held lock, would never be had; the heartbeat is in its place.
        lock = FileLock(path, timeout=0, fallback_to_soft=False)
        try:
            path.touch()
            begun = path.stat()
            _acquire(lock)
        except Timeout:
            raise RunHeldError(f"{self.record} is being made by another process; wait, or use --results") from None
        except OSError as error:
            raise ClbenchError(
                f"{path}: cannot be locked ({one_line(error)}); --results on a local disk can"
            ) from error
        try:
            yield
            if not path.exists() or not os.path.samestat(path.stat(), begun):
                raise ClbenchError(
                    f"'{self.folder}' was removed while the run was made; files are missing: run it again"
                )
        finally:
            lock.release()


def _acquire(lock: BaseFileLock) -> None:
    try:
        lock.acquire()
    except NotImplementedError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def read_record(path: Path) -> Record:
    """Read one record. Its name is that of the file, beside which its other files lie, whatever the content says.

    Raises:
        ClbenchError: no such file, no JSON, no record, or one of another schema.
    """
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise ClbenchError(f"no record '{path}'") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ClbenchError(f"{path}: cannot be read: {reason}") from None
    return msgspec.structs.replace(decode_record(content, str(path)), name=path.name.removesuffix(".json"))


def read_records(folder: Path) -> list[Record]:
    """Read every record of a folder (not of its subfolders), in the order of the file names.

    What is no record is passed over with a `ClbenchWarning` that names it.

    Raises:
        ClbenchError: no such folder.
    """
    return list(readable_records(record_paths(folder)).values())


def readable_records(paths: Iterable[Path]) -> dict[Path, Record]:
    """Read records by their paths; what is none is passed over with a `ClbenchWarning` that names it."""
    found = {}
    for path in paths:
        try:
            found[path] = read_record(path)
        except ClbenchError as error:
            warnings.warn(f"passed over: {error}", ClbenchWarning, stacklevel=2)
    return found


def find_record(name: str, folder: Path) -> Path:
    """Return the path of a record given by its path, or by its name in the folder.

    Raises:
        ClbenchError: there is none; the message names those that come near.
    """
    direct, named = Path(name), folder / f"{name.removesuffix('.json')}.json"
    if direct.suffix == ".json" and direct.exists():
        return direct
    if named.exists():
        return named
    if direct.parent != Path():  # a path, which has nothing to do with the folder
        raise ClbenchError(f"no record '{name}'")
    raise unknown("record", name, [path.stem for path in filled_paths(folder)])


def filled_paths(folder: Path) -> list[Path]:
    """Return the files of a folder's records, sorted by name: at least one.

    Raises:
        ClbenchError: no such folder, or no record in it; the message names the subfolders that have some.
    """
    found = record_paths(folder)
    if not found:
        within = sorted({path.parent for path in folder.rglob("*.answers.jsonl*")})
        named = ", ".join(map(str, within[:MOST_NAMED])) + ", ..." * (len(within) > MOST_NAMED)
        hint = f"but in {named}: name one of these folders" if within else "make a first one with `clbench run`"
        raise ClbenchError(f"no records in '{folder}'{', ' if within else '; '}{hint}")
    return found


def record_paths(folder: Path) -> list[Path]:
    """Return the files of a folder's records, sorted by name.

    Raises:
        ClbenchError: no such folder.
    """
    if not folder.is_dir():
        raise ClbenchError(f"no results folder '{folder}'; make a first record with `clbench run`")
    return sorted(folder.glob("*.json"))
