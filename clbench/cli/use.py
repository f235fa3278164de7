"""The commands that use what a run has learned: `clbench predict` and `clbench export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clbench.cli.parameters import PATH, plugin_option, results_option
from clbench.errors import ClbenchError, unknown
from clbench.terminal import Terminal

if TYPE_CHECKING:
    from clbench.data.tasks import Example
    from clbench.data.templates import TaskPrompt
    from clbench.running.saved_learner import SavedLearner

ROWS = 256  # rows that are answered between two steps of the progress bar

_LOADING = (
    click.argument("learner"),
    results_option,
    plugin_option,
    click.option("--backbone", help="Where the backbone lies here: a hub id or a path. [where the run had it]"),
    click.option("--device", help="auto, cpu, cuda, ... [the run's]"),
    click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that comes with the backbone; read it first."
    ),
)


def learner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument LEARNER and what loading one takes."""
    for option in reversed(_LOADING):
        command = option(command)
    return command


def load(folder: Path, plugins: Sequence[Path], given: dict[str, Any]) -> SavedLearner:
    """Return a saved learner, loaded; what was not given is as in its run."""
    from clbench.running.saved_learner import load_learner

    console = Terminal(stderr=True)
    with console.status("loading the learner"):
        return load_learner(folder, plugins, **{name: value for name, value in given.items() if value is not None})


@click.command()
@learner_options
@click.argument("file", type=PATH)
@click.option(
    "-o", "--output", type=PATH, help="Where the rows go with their answers. [FILE with .answers in its name]"
)
@click.option("--task", help="Of which task the questions are. [the learner's, if it has one alone]")
@click.option(
    "--prompt", help="Another prompt than the task's, with columns in braces: 'Is it good?\\n{text}\\nAnswer:'."
)
@click.option("--labels", help="The answers to choose among, separated by commas. [the task's]")
@click.option(
    "--answers", type=click.Choice(("generate", "labels")), help="Write freely, or choose a label. [the run's]"
)
@click.option("--scores", is_flag=True, help="Add the probability of each label, a column a label.")
@click.option("--column", default="answer", help="The new column's name. [answer]")
def predict(
    learner: str,
    file: Path,
    results: Path,
    plugins: tuple[Path, ...],
    backbone: str | None,
    device: str | None,
    trust_remote_code: bool,
    output: Path | None,
    task: str | None,
    prompt: str | None,
    labels: str | None,
    answers: str | None,
    scores: bool,
    column: str,
) -> None:
    """Answer the rows of a file (csv, tsv, json, jsonl, parquet) by a saved learner, in its task's prompt.

    LEARNER is a folder that `clbench run --save-adapter` left, or the name of its record. FILE needs the columns of the task's
    prompt: those of the run's own stream, otherwise `text`.
    """
    from clbench.data.tables import check_writable, read_table, write_table
    from clbench.running.saved_learner import find_learner, read_saved

    target = output or file.with_name(f"{file.stem}.answers{file.suffix}")
    check_writable(target)
    folder = find_learner(learner, results)
    asked = choose_prompt(read_saved(folder).prompts, task, prompt, labels)
    rows = read_table(file)
    questions = [asked.example(row, f"{file}: row {number}") for number, row in enumerate(rows)]
    new = [column, *(f"{column}: {label}" for label in asked.labels if scores)]
    check_columns(rows, new, file)
    if not asked.labels and (scores or answers == "labels"):
        raise ClbenchError(
            f"{'--scores' if scores else '--answers labels'} needs labels; task '{asked.task}' has none: --labels"
        )
    given = {"backbone": backbone, "device": device, "trust_remote_code": trust_remote_code, "answers": answers}
    saved = load(folder, plugins, given)
    values = answer_rows(saved, questions, asked, scores)
    write_table(
        target, [{**row, **dict(zip(new, value, strict=True))} for row, value in zip(rows, values, strict=True)]
    )
    Terminal().print(f"{target}: {len(rows)} rows, answered as task '{asked.task}'", soft_wrap=True)


def choose_prompt(
    prompts: Sequence[TaskPrompt], task: str | None, prompt: str | None, labels: str | None
) -> TaskPrompt:
    """Return how rows are asked about: as a task of the learner is, but for what is given.

    Raises:
        ClbenchError: there is no such task, or it is not clear which one is meant.
    """
    from dataclasses import replace

    names = [one.task for one in prompts]
    if task is not None and task not in names:
        raise unknown("task of this learner:", task, names)
    if task is None and len(names) > 1:
        raise ClbenchError(f"of which task are the questions? --task ({', '.join(names)})")
    chosen = prompts[names.index(task or names[0])]
    if prompt is not None:
        chosen = replace(chosen, template=prompt.replace("\\n", "\n"))
    if labels is not None:
        chosen = replace(chosen, labels=tuple(label.strip() for label in labels.split(",")))
    return chosen


def check_columns(rows: Sequence[dict[str, Any]], new: Sequence[str], file: Path) -> None:
    """Check that no column that is to be added is there already.

    Raises:
        ClbenchError: one is.
    """
    there = {name for row in rows for name in row}
    twice = [name for name in new if name in there]
    if twice:
        raise ClbenchError(f"{file}: there is a column '{twice[0]}' already; name the new one with --column")


def answer_rows(saved: SavedLearner, questions: Sequence[Example], asked: TaskPrompt, scores: bool) -> list[list[Any]]:
    """Return of each question its answer and, if asked for, the labels' probabilities; a bar shows how far it is."""
    from rich.progress import Progress

    found: list[list[Any]] = []
    with Progress(console=Terminal(stderr=True), transient=True) as progress:
        bar = progress.add_task("answering", total=len(questions))
        for begin in range(0, len(questions), ROWS):
            part = questions[begin : begin + ROWS]
            answers = saved.answer(part, asked.labels, asked.task)
            chances = saved.probabilities(part, asked.labels) if scores else [[] for _ in part]
            found += [[answer, *row] for answer, row in zip(answers, chances, strict=True)]
            progress.update(bar, advance=len(part))
    return found


@click.command()
@learner_options
@click.option("--merged", type=PATH, help="Write one model folder, the adapter merged into the backbone.")
@click.option(
    "--push",
    "repository",
    metavar="OWNER/NAME",
    help="Upload to the Hugging Face hub: the merged model, else the adapter.",
)
@click.option("--public", is_flag=True, help="With --push: a new repository is public. [private]")
def export(
    learner: str,
    results: Path,
    plugins: tuple[Path, ...],
    backbone: str | None,
    device: str | None,
    trust_remote_code: bool,
    merged: Path | None,
    repository: str | None,
    public: bool,
) -> None:
    """Export a saved learner for transformers, PEFT, vLLM, llama.cpp's converter and the hub.

    LEARNER is a folder that `clbench run --save-adapter` left, or the name of its record. A learner whose answers are not those
    of a plain model or adapter is refused.
    """
    if merged is None and repository is None:
        raise ClbenchError("say where to: --merged DIR writes a model folder, --push OWNER/NAME uploads")
    from clbench.running.export import check_exportable, check_repository, export_merged, push
    from clbench.running.saved_learner import find_learner, read_record_of, read_saved

    if repository is not None:
        check_repository(repository)
    folder = find_learner(learner, results)
    record, question = read_record_of(folder), read_saved(folder).question
    saved = load(folder, plugins, {"backbone": backbone, "device": device, "trust_remote_code": trust_remote_code})
    console = Terminal()
    if merged is not None:
        export_merged(saved, record, question, merged)
        console.print(f"{merged}: a model folder", soft_wrap=True)
    else:
        check_exportable(saved)
    if repository is not None:
        console.print(f"pushed to {push(merged or folder, repository, public)}", soft_wrap=True)
