"""Torture clbench and print what it survived: `python -m tests.torture --size short|long [--only KIND] [--seed N]`."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click

from tests.torture import faulty_plugins, inputs, interruptions
from tests.torture.scene import Scene


@dataclass(frozen=True)
class Kind:
    """A kind of torture, and how often it is done in a short and in a long battery."""

    name: str
    act: Callable[[Scene, random.Random, int], Iterator[str]]
    short: int
    long: int


KINDS = (
    Kind("kill at each file event", interruptions.kills_at_events, 6, 400),
    Kind("kill at a random moment", interruptions.kills_at_random, 6, 400),
    Kind("kill of a process group", interruptions.kills_of_groups, 3, 200),
    Kind("full disk", interruptions.full_disk, 3, 150),
    Kind("no locks", interruptions.no_locks, 4, 70),
    Kind("read-only folder", interruptions.read_only, 2, 100),
    Kind("two processes", interruptions.two_processes, 2, 50),
    Kind("four processes", interruptions.four_processes, 1, 50),
    Kind("deleted folder", interruptions.deleted_folder, 2, 100),
    Kind("bad record", inputs.bad_records, 14, 1000),
    Kind("bad checkpoint", inputs.bad_checkpoints, 8, 1000),
    Kind("odd data", inputs.data_fuzz, 50, 1000),
    Kind("faulty plugin", faulty_plugins.plugin_faults, 10, 1000),  # all, which are fewer
)


@dataclass(frozen=True)
class Row:
    """What came of one kind: how many were tried, and what was lost, each in a line."""

    kind: str
    tried: int
    lost: Sequence[str]
    seconds: float


def torture(scene: Scene, kind: Kind, count: int, seed: int) -> Row:
    """Do one kind of torture so often."""
    begin = time.monotonic()
    verdicts = list(kind.act(scene, random.Random(f"{seed} {kind.name}"), count))
    return Row(kind.name, len(verdicts), [one for one in verdicts if one], time.monotonic() - begin)


def in_turn(scene: Scene, chosen: Sequence[Kind], counts: Sequence[int], seed: int, jobs: int) -> Iterator[Row]:
    """Do kinds of torture, so many at the same time, the long ones first; yield their rows in the order of the kinds.

    The processes are forked here and fork in turn, so that imports and model are there once.
    """
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        by_length = sorted(range(len(chosen)), key=lambda number: -counts[number])
        rows = {number: pool.submit(torture, scene, chosen[number], counts[number], seed) for number in by_length}
        for number in range(len(chosen)):
            yield rows[number].result()


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows and their sum as a markdown table."""
    total = Row("all", sum(row.tried for row in rows), [line for row in rows for line in row.lost], 0.0)
    lines = [f"| {row.kind} | {row.tried} | {row.tried - len(row.lost)} | {len(row.lost)} |" for row in (*rows, total)]
    return "\n".join(["| Kind | Tried | Survived | Lost |", "| --- | ---: | ---: | ---: |", *lines])


@click.command()
@click.option("--size", type=click.Choice(["short", "long"]), default="short", show_default=True)
@click.option(
    "--scale", type=float, default=1.0, help="Of each kind so many times the size's number (all kinds at least once)."
)
@click.option("--only", multiple=True, help="A kind, by any part of its name; can be repeated.")
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count(), show_default=True, help="Kinds at the same time."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of all that is random.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="A new folder in which what was lost is kept. [none is kept]"
)
def battery(size: str, scale: float, only: tuple[str, ...], jobs: int, seed: int, keep: Path | None) -> None:
    """Torture clbench; end with exit code 1 if anything was lost."""
    folder = keep or Path(tempfile.mkdtemp(prefix="clbench-torture-"))
    try:
        scene = Scene(folder.resolve())
        scene.measure()
        chosen = [kind for kind in KINDS if not only or any(part in kind.name for part in only)]
        counts = [max(1, round(scale * getattr(kind, size))) for kind in chosen]
        rows = []
        for row in in_turn(scene, chosen, counts, seed, jobs):
            click.echo(f"{row.kind}: {row.tried} tried, {len(row.lost)} lost, {row.seconds:.0f} s", err=True)
            for line in row.lost:
                click.echo(f"  {line}", err=True)
            rows.append(row)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo(as_table(rows))
    raise SystemExit(any(row.lost for row in rows))


if __name__ == "__main__":
    battery()
