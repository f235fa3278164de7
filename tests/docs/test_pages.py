"""The documentation is right: blocks with a title are files, blocks marked `<!-- tested -->` run, and names are there."""

import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from glob import glob
from importlib import import_module
from io import StringIO
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import Result

from tests.conftest import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(
    r'(?P<mark><!-- tested -->\n)?```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.M | re.S
)
SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.M)


class Block(NamedTuple):
    """A fenced block of a page; `tested` says that a reader may copy and run it as it is."""

    language: str
    title: str | None
    text: str
    tested: bool


def blocks_of(page: Path) -> list[Block]:
    text = SNIPPET.sub(lambda found: (ROOT / found[1]).read_text("utf-8").rstrip(), page.read_text("utf-8"))
    return [Block(m["language"], m["title"], m["text"], bool(m["mark"])) for m in BLOCK.finditer(text)]


TESTED = [page for page in sorted(DOCS.rglob("*.md")) if any(block.tested for block in blocks_of(page))]
WATCHER = DOCS / "extend" / "watcher.md"
TRACKERS = DOCS / "trackers.md"


def follow(page: Path, clbench: Callable[..., Result], folder: Path) -> str:
    """Do what a reader of the page would: write its files, run its commands and its Python; return what was printed."""
    blocks, printed = blocks_of(page), ""
    for block in blocks:
        if block.title and " " not in block.title:
            (folder / block.title).write_text(block.text, "utf-8")
    for block in blocks:
        if block.tested and block.language == "python":
            with redirect_stdout(StringIO()) as shown:
                exec(compile(block.text, str(page), "exec"), {"__name__": "example"})
            printed += shown.getvalue()
        for line in block.text.replace("\\\n", " ").splitlines() if block.tested and block.language == "bash" else ():
            program, *given = shlex.split(line, comments=True)
            assert program == "clbench"
            words = [found for word in given for found in glob(word) or [word]]  # as a shell does
            result = clbench(*words)
            assert result.exit_code == 0, f"{line}\n{result.output}"
            printed += result.output
    return printed


def test_every_page_on_extending_clbench_has_tested_examples() -> None:
    assert {DOCS / "extend" / f"{name}.md" for name in ("method", "stream", "metric", "watcher")} <= set(TESTED)


@pytest.mark.parametrize(
    "page", [page for page in TESTED if page not in (WATCHER, TRACKERS)], ids=lambda page: page.stem
)
def test_the_examples_of_a_page_work(page: Path, clbench, tmp_path: Path) -> None:
    assert follow(page, clbench, tmp_path)


def test_the_watchers_leave_what_their_page_promises(clbench, tmp_path: Path) -> None:
    printed = follow(WATCHER, clbench, tmp_path)
    steps = [line.split(",")[:2] for line in (tmp_path / "losses.csv").read_text("utf-8").splitlines()]
    assert steps == [[task, str(step)] for task in "01" for step in range(1, 5)]
    assert re.findall(r"^(\w+): [\d.]+ s$", printed, re.M) == ["dbpedia", "amazon"]


def test_the_tracker_of_ones_own_writes_its_line(clbench, tmp_path: Path) -> None:
    follow(TRACKERS, clbench, tmp_path)
    (line,) = (tmp_path / "board.csv").read_text("utf-8").splitlines()
    assert re.fullmatch(r"seqlora,1,[\d.]+,[-\d.]+", line)
    block = next(one for one in blocks_of(TRACKERS) if one.title == "board.py")
    assert len(block.text.partition("\n\n")[2].splitlines()) <= 10  # as the page says


HOP = re.compile(r"^(\d+)\. `([\w.]+):([\w.]+)`", re.M)


def test_the_way_of_one_example_is_under_twenty_hops_all_of_which_are_there() -> None:
    hops = HOP.findall((DOCS / "architecture.md").read_text("utf-8"))
    assert len(hops) > 20  # of a test question and a training row together
    assert max(int(number) for number, *_ in hops) < 20
    for _, module, name in hops:
        assert callable(attrgetter(name)(import_module(module))), f"{module}:{name}"


def test_every_line_on_security_names_tests_that_there_are() -> None:
    text = (DOCS / "security.md").read_text("utf-8").split("## Not trusted")[1].split("Limits:")[0]
    lines = [line for line in text.split("\n") if line.startswith("| ")][2:]
    assert len(lines) > 10
    for line in lines:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, line
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
