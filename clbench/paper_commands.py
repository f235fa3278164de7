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


@click.command()
@click.argument("record")
@results_option
@click.option(
    "--single", type=click.Path(path_type=Path), help="Folder with the tasks learned alone, for FWT. [the record's own]"
)
@click.option("--zero-shot", type=click.Path(path_type=Path), help="Record of a run that trained nothing, for FWT.")
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="A plugin with a metric.")
@style_option
def rescore(
    record: str, results: Path, single: Path | None, zero_shot: Path | None, plugins: tuple[Path, ...], style: str
) -> None:
    """Compute every measure of a record (a path, or a name in the results folder) again from its answers."""
    from .answers import answers_path, read_answers
    from .leaderboard import find_record
    from .metrics import METRICS
    from .rescore import measures, normalisations, rescore_sheets
    from .store import read_record, read_records

    known = METRICS
    if plugins:
        from .discovery import find_plugins

        known = find_plugins(plugins).metrics
    path = find_record(record, results)
    content = read_record(path)
    cells = read_answers(content, answers_path(path))
    untrained = None if zero_shot is None else read_record(zero_shot)
    found = measures(content, cells, read_records(single or path.parent), untrained, known)
    variants = normalisations(content, cells, known)
    values = [vars(one) for one in found]
    values += [{"name": f"{one['metric']} {name}", "value": one[name]} for one in variants for name in ("op", "bwt")]
    for number, sheet in enumerate(rescore_sheets(found, variants, path.name.removesuffix(".json"))):
        if number == 0 or style in ("table", "md", "latex"):
            show_sheet(Console(), sheet, values, style)
