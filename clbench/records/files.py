"""The files of a run: their names, and how its record and answers are written (atomically) and read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clbench.atomic import write_atomically
from clbench.errors import ClbenchError
from clbench.records.answers import AnswerRow
from clbench.records.record import Record, decode_record, encode_record
from clbench.spec import RunSpec


def slug(text: str) -> str:
    """Return the last part of a name or path as something that fits into a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(text).name).strip("-")[:24] or "x"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run: `NAME.json`, `NAME.answers.jsonl`, where asked for `NAME.adapter/` and `NAME.maps.safetensors`, and
    `NAME.checkpoint` until it is done.
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
    def adapter(self) -> Path:
        """The finished run's adapter in PEFT format, with `--save-adapter`."""
        return self.folder / f"{self.name}.adapter"

    @property
    def maps(self) -> Path:
        """The finished run's maps (`clbench.records.maps`), with `--log-maps`."""
        return self.folder / f"{self.name}.maps.safetensors"

    def write_record(self, record: Record, answers: Sequence[AnswerRow]) -> None:
        """Write answers and record; the record last, since it says that the run is finished."""
        lines = msgspec.json.Encoder().encode_lines(answers)
        write_atomically(self.answers, lambda path: path.write_bytes(lines))
        write_atomically(self.record, lambda path: path.write_bytes(encode_record(record)))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this run for one process.

        Raises:
            ClbenchError: another process holds it.
        """
        from filelock import FileLock, Timeout  # here: reading records must stay quick

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / f".{self.name}.lock", timeout=0):
                yield
        except Timeout:
            raise ClbenchError(f"{self.record} is being made by another process; wait, or use --results") from None


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ClbenchError: no such file, no JSON, no record, or one of another schema.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ClbenchError(f"no record '{path}'") from None
    except OSError as error:
        raise ClbenchError(f"{path}: cannot be read: {error.strerror}") from None
    return decode_record(content, str(path))


def read_records(folder: Path) -> list[Record]:
    """Read every record of a folder (not of its subfolders), in the order of the file names.

    Raises:
        ClbenchError: no such folder, or a malformed record.
    """
    return [read_record(path) for path in record_paths(folder)]


def record_paths(folder: Path) -> list[Path]:
    """Return the files of a folder's records, sorted by name.

    Raises:
        ClbenchError: no such folder.
    """
    if not folder.is_dir():
        raise ClbenchError(f"no results folder '{folder}'; make a first record with `clbench run`")
    return sorted(folder.glob("*.json"))
