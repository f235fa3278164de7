"""What is wrong in a results folder: bad records, and what kills left behind; found, and where asked for removed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clbench.atomic import LEFTOVER
from clbench.errors import ClbenchError
from clbench.records.answers import stored
from clbench.records.files import BEAT, LOCK, RunFiles, read_record, record_paths
from clbench.records.heartbeat import read_beat
from clbench.records.record import OtherSchemaError

RUN = re.compile(r"_s\d+_[0-9a-f]{8}$")  # how the names of runs end
PARTS = (".answers.jsonl", ".answers.jsonl.gz", ".adapter", ".maps.safetensors")


@dataclass(frozen=True)
class Finding:
    """Something in a results folder that does not belong there, or lacks what belongs to it.

    `removable`: nothing is lost by its removal. `harmless`: it is no fault, only untidy.
    """

    path: Path
    fault: str
    removable: bool = False
    harmless: bool = False

    def remove(self) -> None:
        """Remove the file, the link, or the folder of a leftover.

        Raises:
            OSError: it cannot be removed.
        """
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def examine(folder: Path) -> list[Finding]:
    """Return what is wrong in a results folder, in the order of the files' names; what a process holds is left out.

    Raises:
        ClbenchError: no such folder.
    """
    record_paths(folder)  # raises where there is no folder
    held = {name for name in _names(folder, LOCK) + _names(folder, BEAT) if _is_held(folder, name)}
    found = [finding for path in sorted(folder.iterdir()) for finding in _faults(path)]
    return [one for one in found if not any(one.path.name.lstrip(".").startswith(f"{name}.") for name in held)]


def _names(folder: Path, ending: str) -> list[str]:
    return [path.name.removeprefix(".").removesuffix(ending) for path in folder.glob(f".*{ending}")]


def _is_held(folder: Path, name: str) -> bool:
    if read_beat(RunFiles(folder, name)) is not None:
        return True
    try:
        with RunFiles(folder, name).lock():
            return False
    except ClbenchError:
        return True


def _faults(path: Path) -> Iterator[Finding]:
    if path.name.startswith(".") and path.name.endswith((LEFTOVER, BEAT)):
        yield Finding(path, "left behind by a process that was killed", removable=True)
    elif path.name.startswith(".") and path.name.endswith(LOCK):
        yield Finding(path, "a lock that nobody holds", removable=True, harmless=True)
    elif path.suffix == ".json":
        yield from _faults_of_record(path)
    elif path.suffix in (".checkpoint", ".bookmark", ".tracking") and _is_record(path.with_name(f"{path.stem}.json")):
        yield Finding(path, f"the {path.suffix[1:]} of a run that is finished", removable=True)
    for part in PARTS:
        files = RunFiles(path.parent, path.name.removesuffix(part))
        if path.name.endswith(part) and not files.record.exists() and not files.are_begun:
            yield Finding(path, "belongs to no record and to no unfinished run")


def _faults_of_record(path: Path) -> Iterator[Finding]:
    try:
        record = read_record(path)
    except ClbenchError as error:
        fault = str(error).removeprefix(f"{path}: ")
        ours = RUN.search(path.stem) is not None and not isinstance(error, OtherSchemaError)
        yield Finding(path, fault, removable=ours and not (path.is_dir() and not path.is_symlink()))
        return
    if not stored(RunFiles(path.parent, record.name).answers).is_file():
        yield Finding(path, "a record without its answers; the same `clbench run` makes both anew")


def _is_record(path: Path) -> bool:
    try:
        read_record(path)
    except ClbenchError:
        return False
    return True
