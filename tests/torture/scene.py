"""The stage of the battery: a tiny model loaded once, a short run, and what it must leave however often it is interrupted."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import peft  # noqa: F401  loaded here, so that no child loads it
import torch

from clbench.cli.main import main
from clbench.model.backbone import load_backbone
from clbench.model.tiny import save_tiny_t5
from clbench.records.doctor import examine
from clbench.records.files import read_record
from clbench.running import maker
from clbench.running.saved_learner import RECORD_FILE
from tests.torture.children import Ending, FileEvents, run

SIZES = {
    "limit-train": 12, "limit-test": 4, "epochs": 1, "lora-targets": "q,v", "max-input": 96, "max-target": 8, "max-answer": 4,
    "learning-rate": 1e-2, "lora-rank": 2, "threads": 1, "stream": "sst-2,agnews", "checkpoint-every": "1 step",
}  # fmt: skip
SEEDS = (1, 2)
MADE = itertools.count(1)  # folders, whatever scene they are of: a copy of one would count anew


class Scene:
    """A folder with a tiny T5 and the results of two uninterrupted runs, seeds 1 and 2.

    Everything is imported and the backbone loaded here, before any child is forked; nothing is trained here, since autograd does
    not outlive a fork.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.update({"HF_HUB_OFFLINE": "1", "CLBENCH_CACHE": "none", "COLUMNS": "200"})
        torch.set_num_threads(1)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.tiny = save_tiny_t5(folder / "t5", vocabulary=400)
        backbone = load_backbone(str(self.tiny), "cpu")
        mock.patch.object(maker, "load_backbone_of", return_value=backbone).start()  # each child has a copy of its own
        self.whole = folder / "whole"
        ending = run(self.command(self.whole, seeds="2"))
        assert ending.code == 0, ending.errors
        self._import_what(self.command(folder / "warm"), *self._readers())
        gc.collect()
        gc.freeze()  # a child's collector need not visit what the parent has made
        self.seconds, self.events = 0.0, 0

    def _readers(self) -> Iterator[Callable[[], Any]]:
        """Yield commands that read records."""
        page = str(self.folder / "warm.html")
        for words in (["leaderboard", "--significance"], ["compare"], ["report", "-o", page]):
            yield lambda words=words: main([*words, "--results", str(self.whole)])  # type: ignore[misc]

    def _import_what(self, *acts: Callable[[], Any]) -> None:
        """Import here what these acts import, so that no child does it again; nothing else is shared with the children."""
        for number, act in enumerate(acts):
            listed = self.folder / f"modules{number}"

            def tell(act: Callable[[], Any] = act, listed: Path = listed) -> None:
                try:
                    act()
                finally:
                    listed.write_text("\n".join(sys.modules))

            ending = run(tell)
            assert ending.code == 0, ending.errors
            for name in listed.read_text().split("\n"):
                if name not in sys.modules and "__main__" not in name:
                    with suppress(ImportError):  # some are made by others, under a name that cannot be imported
                        importlib.import_module(name)

    def measure(self) -> None:
        """Find out how long the run of seed 1 takes, and how many file events it has."""
        folder = self.new_folder()
        begin = time.monotonic()
        events = run(self._counting(folder))
        self.seconds, self.events = time.monotonic() - begin, int(events.errors.split()[-1])
        assert self.differs(folder) == ""

    def _counting(self, folder: Path) -> Callable[[], None]:
        def act() -> None:
            events = FileEvents(folder, 0, lambda: None)
            try:
                self.command(folder)()
            finally:
                print(events.count, file=sys.stderr)

        return act

    def new_folder(self) -> Path:
        """Return the path of a folder that there is not."""
        return self.folder / f"f{os.getpid()}-{next(MADE)}"  # processes share a scene, and one may do several kinds

    def words(self, results: Path, *more: str, seeds: str = "1,", method: str = "lorareplay") -> list[str]:
        """Return the words of the run."""
        sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
        memory = ["--set", "memory_ratio=0.2"] if method == "lorareplay" else []
        common = ["--backbone", str(self.tiny), "--save-adapter", "-q", "--seeds", seeds, "--results", str(results)]
        return ["run", "--method", method, *memory, *common, *sizes, *more]

    def command(self, results: Path, *more: str, **named: str) -> Callable[[], Any]:
        """Return the run's command as something that a child can do."""
        words = self.words(results, *more, **named)
        return lambda: main(words)

    def differs(self, folder: Path, seeds: tuple[int, ...] = (1,)) -> str:
        """Return in what the runs of a folder differ from those that nothing interrupted; empty for nothing."""
        for seed in seeds:
            (path,) = self.whole.glob(f"*_s{seed}_*.json")
            if not (folder / path.name).exists():
                return "no record"
            record, expected = read_record(folder / path.name), read_record(path)
            for field in ("scores", "learned", "losses", "metrics", "digests", "notes", "marks"):
                if getattr(record, field) != getattr(expected, field):
                    return f"another {field}"
            for one in files_of(path):
                other = folder / one.relative_to(self.whole)
                if not other.exists() or content_of(other) != content_of(one):
                    return f"another {one.name}"
        kept = [
            finding for finding in examine(folder) if not finding.removable
        ]  # the rest is of a kill after the record
        return f"left over: {kept[0].path.name}: {kept[0].fault}" if kept else ""

    def finish(self, folder: Path, seeds: tuple[int, ...] = (1,)) -> str:
        """Give the command once more, undisturbed; return what is wrong with what then is there, and remove the folder."""
        ending = run(self.command(folder, seeds=",".join(map(str, seeds)) + ","))
        wrong = fault(ending) or (f"ends with {ending.code}: {ending.errors}" if ending.code else "")
        wrong = wrong or self.differs(folder, seeds)
        if not wrong:
            shutil.rmtree(folder)
        return wrong


def files_of(record: Path) -> Iterator[Path]:
    """Yield the files beside a record that must be equal: answers, and the adapter's folder but for the record in it."""
    yield record.with_suffix(".answers.jsonl")
    yield from sorted(path for path in record.with_suffix(".adapter").rglob("*") if path.name != RECORD_FILE)


def content_of(path: Path) -> object:
    """Return a file's bytes; of safetensors the header as JSON, whose fields that library writes in an order of chance.

    When a run was finished, which its card tells, is left out.
    """
    data = re.sub(rb"finished \S+", b"", path.read_bytes()) if path.suffix == ".md" else path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def fault(ending: Ending, codes: tuple[int, ...] = (0, 2)) -> str:
    """Return what is wrong with how a command ended; empty where it went well or one line says why not."""
    lines = [line for line in ending.errors.split("\n") if line and not line.startswith("warning: ")]
    last = lines[-1] if lines else ""
    if ending.code is None:
        return "hangs"
    if ending.code not in codes:
        return f"ends with {ending.code}: {last}"
    if "Traceback" in ending.errors or "--traceback shows the whole" in ending.errors:
        return f"a fault that clbench has no words for: {last}"
    if ending.code == 2 and not (len(lines) >= 1 and last.startswith("error: ")):
        return f"no line says why it ends: {ending.errors!r}"
    if ending.code == 2 and len(lines) > 1:
        return f"{len(lines)} lines instead of one: {lines[0]}"
    return ""


def as_json(path: Path) -> Any:
    """Return what a command has printed with `--format json`."""
    return json.loads(path.read_text("utf-8"))
