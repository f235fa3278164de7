"""The command that explains forgetting: `clbench explain`."""

from __future__ import annotations

from pathlib import Path

import click

from clbench.cli import completion
from clbench.cli.parameters import plugin_option, results_option, style_option
from clbench.terminal import Terminal


@click.command()
@click.argument("record", shell_complete=completion.records)
@results_option
@click.option(
    "--ask-again", is_flag=True, help="Ask lost questions again among the labels, by the saved learner (NAME.adapter)."
)
@click.option("--data", help="With --ask-again: where the data lie here. [where the run had them]")
@click.option("--backbone", help="With --ask-again: where the backbone lies here. [where the run had it]")
@click.option("--device", help="With --ask-again: auto, cpu, cuda, ... [the run's]")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the backbone; read it first.")
@plugin_option
@style_option
def explain(
    record: str,
    results: Path,
    ask_again: bool,
    data: str | None,
    backbone: str | None,
    device: str | None,
    trust_remote_code: bool,
    plugins: tuple[Path, ...],
    style: str,
) -> None:
    """Explain a run's forgetting (a record's path, or its name in the results folder) from its stored answers.

    Of the questions that were right after learning their task and are wrong at the end: is the answer a label of another task, a
    wrong label of the right one, or free text, and which later task took them (--matrix lower)?
    """
    from clbench.data.answer_scores import METRICS
    from clbench.records.answers import answers_path, read_answers
    from clbench.records.files import find_record, read_record
    from clbench.reports import forgetting
    from clbench.reports.tables import show_sheet

    known = METRICS
    if plugins:
        from clbench.discovery import find_plugins

        known = find_plugins(plugins).metrics
    path = find_record(record, results)
    content = read_record(path)
    found = forgetting.explain(content, read_answers(content, answers_path(path)), known)
    if ask_again:
        from clbench.cli.use import load
        from clbench.discovery import find_plugins
        from clbench.running.ask_again import right_among_labels
        from clbench.running.saved_learner import find_learner

        given = {"data": data, "backbone": backbone, "device": device, "trust_remote_code": trust_remote_code}
        saved = load(find_learner(content.name, path.parent), plugins, given)
        rows = {one.task: [question.row for question in one.lost] for one in found.tasks}
        found = forgetting.with_second_answers(found, right_among_labels(saved, content, rows, find_plugins(plugins)))
    values = forgetting.explanation_values(found, nested=style == "json")
    for number, sheet in enumerate(forgetting.explanation_sheets(found, content.name)):
        if number == 0 or style in ("table", "md", "latex"):
            show_sheet(Terminal(), sheet, values, style)
