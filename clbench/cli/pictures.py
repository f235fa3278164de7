"""The commands that draw: `clbench plot`, and `clbench report`, a page with pictures and tables."""

from __future__ import annotations

from pathlib import Path

import click

from clbench.cli import completion
from clbench.cli.parameters import PATH, json_option, ledger_option, results_option, source_option, stream_option
from clbench.errors import ClbenchError, unknown
from clbench.terminal import Terminal, json_text, say

TUNING = "tuning"  # the kind of picture that is not of records


@click.command()
@click.argument("kind", required=False, shell_complete=completion.kinds)
@click.argument("records", metavar="[RECORD|TUNED.toml]...", nargs=-1, shell_complete=completion.records)
@results_option
@stream_option
@click.option(
    "--method", "methods", multiple=True, shell_complete=completion.methods, help="Keep one method; repeatable. [all]"
)
@click.option("-o", "--output", type=PATH, help="PNG, SVG or PDF, by its suffix. [KIND.png]")
@json_option
def plot(
    kind: str | None,
    records: tuple[str, ...],
    results: Path,
    stream: str | None,
    methods: tuple[str, ...],
    output: Path | None,
    style: str,
) -> None:
    """Draw recorded runs, or what `clbench tune` wrote; without a KIND, list the kinds of pictures.

    RECORD is a path, or a name in the results folder; without one, all records of the folder are drawn. The kind `tuning` takes
    the tuned presets. Runs of one method that
    differ in order and seed alone are averaged, as on the leaderboard.
    """
    from clbench.records.files import filled_paths, find_record, read_record, readable_records
    from clbench.reports.plots.kinds import KINDS, check_kind, draw, file_format, save
    from clbench.reports.plots.series import series_of

    console = Terminal()
    if kind is None and style == "json":
        say(json_text([{"kind": name, "shows": about} for name, about in KINDS.items()]))
        return
    if kind is None:
        for name, about in KINDS.items():
            console.print(f"{name:10} {about}")
        console.print(f"{TUNING:10} score over the trials of `clbench tune`, and the importance of what was searched")
        return
    if kind == TUNING:
        draw_tuning(console, records, methods, output or Path("tuning.png"))
        return
    check_kind(kind)
    file = output or Path(f"{kind}.png")
    file_format(file)
    paths = [find_record(name, results) for name in records] or filled_paths(results)
    found = {path: read_record(path) for path in paths} if records else readable_records(paths)
    known = {record.method.name for record in found.values()}
    for name in methods:
        if name not in known:
            raise unknown("recorded method", name, sorted(known))
    kept = {path: record for path, record in found.items() if record.method.name in (methods or known)}
    save(draw(kind, series_of(kept, kind, stream)), file)
    console.print(f"{file}")


def draw_tuning(console: Terminal, files: tuple[str, ...], methods: tuple[str, ...], output: Path) -> None:
    """Draw what was tuned, of the methods that were asked for."""
    from clbench.reports.plots.kinds import file_format, has_matplotlib, save
    from clbench.tuned import read_tuned

    file_format(output)
    if not has_matplotlib():
        raise ClbenchError("plots need matplotlib: pip install matplotlib")
    from clbench.reports.plots.tuning import draw_trials

    found = [one for file in files or ("results/tuning/tuned.toml",) for one in read_tuned(Path(file))]
    for name in methods:
        if name not in {one.method for one in found}:
            raise unknown("tuned method", name, sorted({one.method for one in found}))
    save(draw_trials([one for one in found if one.method in methods or not methods]), output)
    console.print(f"{output}")


@click.command()
@results_option
@stream_option
@source_option
@ledger_option
@click.option("-o", "--output", type=PATH, help="The page's file. [report.html]")
@click.option("--site", type=PATH, help="Write a folder instead, with a page a run and its wrong answers.")
@click.option("--data", help="With --site: where the questions lie, or none to leave them out. [as the records say]")
def report(
    results: Path,
    stream: str | None,
    source: str,
    ledger: Path | None,
    output: Path | None,
    site: Path | None,
    data: str | None,
) -> None:
    """Write an HTML page about a results folder: tables, pictures, recipes, audit verdicts, environment. It opens offline."""
    from clbench.atomic import make_folder, write_atomically
    from clbench.errors import ClbenchError
    from clbench.records.files import filled_paths
    from clbench.reports.published import read_ledger

    if site is not None and output is not None:
        raise ClbenchError("give --output (one file) or --site (a folder), not both")
    if site is None and data is not None:
        raise ClbenchError("--data is for the pages of single runs, which --site DIR writes")
    console = Terminal()
    filled_paths(results)  # raises where there is nothing to report
    with console.status("making the report"):
        from clbench.reports.page import make_page, read_report
        from clbench.reports.site import write_site

        found, published = read_report(results, stream), read_ledger(ledger)
        if site is not None:
            page = write_site(found, published, source, site, data)
        else:
            page = output or Path("report.html")
            text = make_page(found, published, source)
            make_folder(page.parent)
            write_atomically(page, lambda path: path.write_text(text, "utf-8"))
    console.print(f"{page}")
