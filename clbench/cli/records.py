"""The commands that read records: `clbench show`, `leaderboard`, `compare` and `rescore`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

from clbench.cli import completion
from clbench.cli.parameters import (
    PATH,
    json_option,
    ledger_option,
    results_option,
    source_option,
    stream_option,
    style_option,
)
from clbench.data.catalogue import known_streams, task_specs
from clbench.errors import ClbenchError, ClbenchWarning, unknown
from clbench.names import match
from clbench.records.summary import cost_text, disagreement_text, environment_text, measure_of, probes_text
from clbench.reports.tables import show_sheet
from clbench.terminal import Terminal, json_text, say


@click.command()
@click.argument("record", shell_complete=completion.records)
@results_option
@json_option
def show(record: str, results: Path, style: str) -> None:
    """Show one record (a path, or a name in the results folder): its scores after each task."""
    from clbench.records.files import find_record, read_record
    from clbench.records.record import encode_record
    from clbench.reports.leaderboard import changed_options, matrix_table, recipe_text

    content = read_record(find_record(record, results))
    if style == "json":
        say(json_text(json.loads(encode_record(content))))
        return
    console = Terminal()
    chosen = [content.stream.name, recipe_text(content), changed_options(content)]
    console.print(f"{content.name}: {', '.join(filter(None, chosen))}")
    console.print(f"{content.method.name}: score on each task (column) after learning (row)")
    console.print(matrix_table(content))
    measures = {name: measure_of(content, name) for name in ("op", "bwt", "forgetting", "fwt")}
    values = [f"{name} {value:.2f}" for name, value in measures.items() if value is not None]
    console.print(", ".join(values))
    for text in filter(None, (probes_text(content), disagreement_text(content), cost_text(content))):
        console.print(text)
    console.print(environment_text(content))
    for note in content.notes:
        console.print(note)


@click.command()
@results_option
@stream_option
@style_option
@click.option(
    "--columns",
    help="Measures separated by commas: op, bwt, fwt, forgetting, probe, questions, steps, seconds, replayed. [op,bwt]",
)
@click.option("--significance", is_flag=True, help="Intervals, p-values and ranks, from the stored answers.")
@click.option("--published", is_flag=True, help="Beside published numbers: the same as `clbench compare`.")
def leaderboard(
    results: Path, stream: str | None, style: str, columns: str | None, significance: bool, published: bool
) -> None:
    """Compare the recorded runs: OP and BWT, mean and standard deviation over orders and seeds."""
    if columns is not None and published:
        raise ClbenchError("--columns is for the leaderboard of our runs; published numbers are OP and BWT")
    from clbench.records.files import read_records

    known = {s.name for s in known_streams().values()} | {s.family for s in known_streams().values()}
    known |= {record.stream.name for record in read_records(results)} if stream and results.is_dir() else set()
    if stream is not None:
        found = match(stream, known)
        if found is None and any(name not in task_specs() for name in stream.split(",")):
            raise unknown("stream", stream, sorted(known), "clbench streams")
        stream = found or stream
    if published:
        show_comparison(Terminal(), results, stream, "rkif", None, style)
    else:
        chosen = None if columns is None else [name.strip() for name in columns.lower().split(",")]
        show_leaderboard(Terminal(), results, stream, style, significance, chosen)


def show_leaderboard(
    console: Terminal,
    results: Path,
    stream: str | None,
    style: str = "table",
    significance: bool = False,
    columns: Sequence[str] | None = None,
) -> None:
    """Print the leaderboard of a results folder, with these columns of `clbench.reports.leaderboard.COLUMNS`."""
    from clbench.records.files import filled_paths, readable_records
    from clbench.reports.leaderboard import USUAL_COLUMNS, check_columns, make_rows, pivot, render, row_values

    chosen = USUAL_COLUMNS if columns is None else columns
    check_columns(chosen)
    rows = make_rows(readable_records(filled_paths(results)).values(), stream)
    if significance:
        from clbench.reports.significance import assess  # here: numpy is slow to import

        rows = assess(rows, results)
    if style == "csv":
        say(str(render(rows, style, columns=chosen)))
    else:
        show_sheet(console, pivot(rows, columns=chosen), row_values(rows, chosen), style)


@click.command()
@results_option
@stream_option
@source_option
@ledger_option
@style_option
@click.option("--ranking", is_flag=True, help="Do our methods rank as the published ones? Spearman's correlation.")
def compare(results: Path, stream: str | None, source: str, ledger: Path | None, style: str, ranking: bool) -> None:
    """Set the recorded runs beside published numbers, and say what differs in protocol."""
    show = show_ranking if ranking else show_comparison
    show(Terminal(), results, stream, source, ledger, style)


def show_ranking(
    console: Terminal, results: Path, stream: str | None, source: str, ledger: Path | None, style: str
) -> None:
    """Print how the recorded methods rank beside the published ones."""
    from clbench.records.files import read_records
    from clbench.reports.leaderboard import make_rows
    from clbench.reports.published import read_ledger
    from clbench.reports.ranking import FEWEST, TABLE, ranking_sheets, ranking_values, rankings

    found = rankings(make_rows(read_records(results), stream), read_ledger(ledger), source)
    if not found:
        raise ClbenchError(f"nothing to rank: fewer than {FEWEST} methods with one recipe are in {TABLE} of '{source}'")
    for number, sheet in enumerate(ranking_sheets(found)):
        if number == 0 or style in ("table", "md", "latex"):
            show_sheet(console, sheet, ranking_values(found), style)


def show_comparison(
    console: Terminal, results: Path, stream: str | None, source: str, ledger: Path | None, style: str
) -> None:
    """Print the recorded runs beside published numbers."""
    from clbench.records.files import filled_paths, readable_records
    from clbench.reports.comparison import compare_rows, compare_sheet, published_rows
    from clbench.reports.leaderboard import make_rows
    from clbench.reports.published import read_ledger

    try:
        rows, lack = (
            make_rows(readable_records(filled_paths(results)).values(), stream),
            f"no runs of ours on '{stream}'",
        )
    except ClbenchError as error:
        rows, lack = [], str(error)
    published = read_ledger(ledger)
    compared = compare_rows(rows, published, source) if rows else published_rows(published, source, stream)
    if not rows:
        warnings.warn(f"{lack}; these are the published numbers alone", ClbenchWarning, stacklevel=1)
    show_sheet(console, compare_sheet(compared), compared, style)


@click.command()
@click.argument("record", shell_complete=completion.records)
@results_option
@click.option("--single", type=PATH, help="Folder with the tasks learned alone, for FWT. [the record's own]")
@click.option("--zero-shot", type=PATH, help="Record of a run that trained nothing, for FWT.")
@click.option("--plugin", "plugins", multiple=True, type=PATH, help="A plugin with a metric.")
@style_option
def rescore(
    record: str, results: Path, single: Path | None, zero_shot: Path | None, plugins: tuple[Path, ...], style: str
) -> None:
    """Compute every measure of a record (a path, or a name in the results folder) again from its answers."""
    from clbench.data.answer_scores import METRICS
    from clbench.records.answers import answers_path, read_answers
    from clbench.records.files import find_record, read_record, read_records
    from clbench.reports.rescore import measures, normalisations, rescore_sheets

    known = METRICS
    if plugins:
        from clbench.discovery import find_plugins

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
            show_sheet(Terminal(), sheet, values, style)
