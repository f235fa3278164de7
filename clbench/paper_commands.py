"""The commands about published tables: `clbench compare`, `rescore`, `reproduce`, `plot` and `report`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .tables import show_sheet, style_option

results_option = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), help="Folder of the records. [results]"
)
ledger_option = click.option("--ledger", type=click.Path(path_type=Path), help="Folder of published numbers. [ours]")
source_option = click.option("--source", default="rkif", help="Whose published numbers; all: one row a source. [rkif]")


@click.command()
@results_option
@click.option("--stream", help="Keep one stream (long:1) or family (long).")
@source_option
@ledger_option
@style_option
def compare(results: Path, stream: str | None, source: str, ledger: Path | None, style: str) -> None:
    """Set the recorded runs beside published numbers, and say what differs in protocol."""
    show_comparison(Console(), results, stream, source, ledger, style)


def show_comparison(
    console: Console, results: Path, stream: str | None, source: str, ledger: Path | None, style: str
) -> None:
    """Print the recorded runs beside published numbers."""
    from .compare import compare_rows, compare_sheet
    from .leaderboard import make_rows
    from .ledger import read_ledger
    from .store import read_records

    compared = compare_rows(make_rows(read_records(results), stream), read_ledger(ledger), source)
    show_sheet(console, compare_sheet(compared), compared, style)
