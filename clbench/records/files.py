"""One record per run: where it lies, how it is written (atomically), and what it must contain."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.atomic import write_atomically
from clbench.errors import ClbenchError

SCHEMA_VERSION = 1
REQUIRED_FIELDS = ("method", "options", "settings", "stream", "tasks", "scores", "metrics")


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
    def of(cls, folder: Path, identity: Mapping[str, Any]) -> RunFiles:
        """Return the files of the run with this identity; another identity has other files."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        settings = identity["settings"]
        parts = [settings["stream"], identity["method"], settings["backbone"], settings["data"]]
        return cls(folder, f"{'_'.join(slug(part) for part in parts)}_s{settings['seed']}_{digest}")

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

    def write_record(self, record: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
        """Write answers and record; the record last, since it says that the run is finished."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers)
        write_atomically(self.answers, lambda path: path.write_text(lines, "utf-8"))
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.record, lambda path: path.write_text(text, "utf-8"))

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


def read_record(path: Path) -> dict[str, Any]:
    """Read one record.

    Raises:
        ClbenchError: no such file, no JSON, no record, or one of a newer schema.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ClbenchError(f"no record '{path}'") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{path}: cannot be read as JSON: {error}") from None
    missing = [field for field in REQUIRED_FIELDS if not isinstance(record, dict) or field not in record]
    if missing:
        raise ClbenchError(f"{path}: not a clbench record: no field '{missing[0]}'")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ClbenchError(
            f"{path}: schema version {record.get('schema_version')}, this clbench reads {SCHEMA_VERSION}"
        )
    return record


def read_records(folder: Path) -> list[dict[str, Any]]:
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
