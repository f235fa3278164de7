"""The commands about data: `clbench streams`, `streams new`, `streams check`, and `clbench audit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from clbench.atomic import make_folder, write_atomically
from clbench.cli import completion
from clbench.cli.parameters import PATH, json_option, plugin_option
from clbench.cli.run import choose_streams
from clbench.data.catalogue import known_streams, task_specs
from clbench.data.tasks import Example, Stream, TaskSpec
from clbench.encoding.round_trip import count_tokens, unread, written
from clbench.errors import ClbenchError
from clbench.settings import Settings, resolve_settings
from clbench.terminal import Terminal, json_text, say

NO_TOKENS = "none"


def tokenizer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--backbone` and `--max-input`, for the tokens that it counts."""
    command = click.option(
        "--max-input", metavar="INT", help="Longest prompt in tokens. [the backbone's preset, or 512]"
    )(command)
    return click.option("--backbone", default="mini", help="Whose tokenizer counts; none: count no tokens. [mini]")(
        command
    )


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def streams(context: click.Context, style: str) -> None:
    """List the streams and tasks; `new` writes and `check` checks a stream of your own."""
    if context.invoked_subcommand is not None:
        return
    family_of = {name: stream.family for stream in known_streams().values() for name in stream.tasks}
    if style == "json":
        listed = [{**_named(one), "family": one.family, "tasks": list(one.tasks)} for one in known_streams().values()]
        tasks = [_task_values(one) | {"family": family_of.get(one.name)} for one in task_specs().values()]
        say(json_text({"streams": listed, "tasks": tasks}))
        return
    console = Terminal()
    table = Table("Stream", "Order", "Tasks")
    for stream in known_streams().values():
        table.add_row(stream.name, str(stream.order), " > ".join(stream.tasks))
    console.print(table)
    for family in dict.fromkeys(family_of.values()):
        table = Table(title=family, title_justify="left")
        for column in ("Task", "Labels", "Metric", "Version"):
            table.add_column(column, overflow="fold")
        for spec in task_specs().values():
            metric = spec.metric if spec.metric_mixed is None else f"{spec.metric} (mixed: {spec.metric_mixed})"
            if family_of.get(spec.name) == family:
                table.add_row(spec.name, ", ".join(spec.labels) or "free text", metric, str(spec.version))
        console.print(table)


def _named(stream: Stream) -> dict[str, Any]:
    return {"name": stream.name, "order": stream.order}


def _task_values(spec: TaskSpec) -> dict[str, Any]:
    values = {"name": spec.name, "labels": list(spec.labels), "metric": spec.metric, "metric_mixed": spec.metric_mixed}
    return {**values, "version": spec.version, "max_answer": spec.max_answer}


@streams.command()
@click.argument("file", default="my_stream.toml")
def new(file: str) -> None:
    """Write a commented stream file to fill in. [my_stream.toml]"""
    from clbench.data.own_streams import example_file

    path = Path(file)
    if path.suffix != ".toml":
        raise ClbenchError(f"'{file}': a stream file ends in .toml")
    if path.exists():
        raise ClbenchError(f"{path} already exists; choose another name")
    make_folder(path.parent)
    write_atomically(path, lambda temporary: temporary.write_text(example_file(file), "utf-8"))
    say(f"{path}: name your files and columns there, then `clbench streams check {path}`")


@streams.command()
@click.argument("file", type=PATH)
@click.option(
    "--prompts", type=click.IntRange(0), default=3, help="How many prompts to show, spread over the tasks. [3]"
)
@plugin_option
@tokenizer_options
@json_option
def check(
    file: Path, prompts: int, plugins: tuple[Path, ...], backbone: str, max_input: str | None, style: str
) -> None:
    """Check a stream file and its data; show prompts."""
    from clbench.data.audit import audit_stream
    from clbench.data.own_streams import check_metrics, read_stream
    from clbench.data.sources import Selection, check_labels_round_trip, make_tasks, open_source
    from clbench.discovery import find_plugins

    stream = read_stream(file)
    found = find_plugins(plugins)
    check_metrics(stream, found.metrics)
    source = open_source("", stream=stream)
    tasks = make_tasks(source, stream, Selection())
    settings, asking = _asking(backbone, max_input, stream, str(file))
    for task in tasks:
        check_labels_round_trip(task.labels, found.metrics[task.metric])
    shown = _spread([(task.name, task.train) for task in tasks], prompts)
    findings = audit_stream(source, stream, asking, settings.max_input).findings
    if style == "json":
        rows = {task.name: {"train": len(task.train), "test": len(task.test)} for task in tasks}
        values = [{**_task_values(spec), **rows[spec.name]} for spec in stream.specs]
        asked = [{"task": name, "prompt": one.prompt, "target": one.target} for name, one in shown]
        about = {"findings": [asdict(one) for one in findings], "prompts": asked}
        say(json_text({**_named(stream), "tasks": values, **about}))
        return
    console = Terminal()
    console.print(f"Stream {stream}")
    table = Table("Task", "Train", "Test", "Labels", "Metric", "Longest answer")
    for task in tasks:
        longest = str(stream.spec(task.name).max_answer)
        labels = ", ".join(task.labels) or "free text"
        table.add_row(task.name, str(len(task.train)), str(len(task.test)), labels, task.metric, longest)
    console.print(table)
    for number, (name, example) in enumerate(shown, 1):
        _show_prompt(console, number, name, example, asking, settings.max_input)
    for finding in findings:
        console.print(str(finding), soft_wrap=True)
    console.print(f"run it with `clbench run --method ... --stream {file}`", soft_wrap=True)


def _spread(tasks: Sequence[tuple[str, Sequence[Example]]], count: int) -> list[tuple[str, Example]]:
    """Return `count` examples, the first of each task, then the second of each."""
    deepest = max(len(examples) for _, examples in tasks)
    in_turn = ((name, examples[row]) for row in range(deepest) for name, examples in tasks if row < len(examples))
    return list(islice(in_turn, count))


@dataclass(frozen=True)
class Asking:
    """How a backbone is asked: its tokenizer, and what puts an example into the form of its prompts (None: as it is)."""

    tokenizer: Any
    form: Callable[[Example], Example] | None

    def asked(self, example: Example) -> Example:
        """Return the example with the prompt that the backbone reads."""
        return self.form(example) if self.form else example

    def count(self, examples: Sequence[Example]) -> list[int]:
        """Return how many tokens the backbone reads of each."""
        return self.lengths([self.asked(example).prompt for example in examples])

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens texts have."""
        return count_tokens(self.tokenizer, texts)

    def written(self, texts: Sequence[str]) -> list[str]:
        """Return what comes back of texts that the backbone wrote to the letter."""
        return written(self.tokenizer, texts)

    def unread(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that the backbone cannot read, most of their letters being unknown to it."""
        return unread(self.tokenizer, texts)


def _show_prompt(
    console: Terminal, number: int, task: str, example: Example, asking: Asking | None, max_input: int
) -> None:
    tokens = ""
    if asking is not None:
        example = asking.asked(example)
        prompt, target = asking.lengths([example.prompt, example.target])
        shortened = f", shortened to {max_input}" if prompt > max_input else ""
        tokens = f" ({prompt} tokens{shortened}; target {target} tokens)"
    console.rule(f"prompt {number}, task {task}{tokens}", align="left")
    console.print(example.prompt, soft_wrap=True)
    console.print(f"-> {example.target}", style="bold", soft_wrap=True)


def _asking(backbone: str, max_input: str | None, stream: Stream, data: str) -> tuple[Settings, Asking | None]:
    given = {"stream": stream.name, "data": data} | ({} if max_input is None else {"max_input": max_input})
    if backbone == NO_TOKENS:
        return resolve_settings(given), None
    settings = resolve_settings({**given, "backbone": backbone})
    from clbench.model.backbone import load_tokenizer, prompt_form_of

    return settings, Asking(load_tokenizer(backbone), prompt_form_of(backbone, settings.template))


@click.command()
@click.option("--order", shell_complete=completion.orders, help="The order's number, 1-9.")
@click.option(
    "--stream",
    shell_complete=completion.streams,
    help="A stream's name, family or file, or task names separated by commas. [long:1]",
)
@click.option("--data", default="toy", help="toy, hub, hub:FOLDER, or a folder, as for `clbench run`. [toy]")
@click.option("--layout", default="auto", metavar="auto|rkif|olora|sapt|trace", help="Layout of the folder. [auto]")
@tokenizer_options
@json_option
@click.pass_context
def audit(
    context: click.Context,
    order: str | None,
    stream: str | None,
    data: str,
    layout: str,
    backbone: str,
    max_input: str | None,
    style: str,
) -> None:
    """Audit a stream's data; exit code 1 if a finding is an error."""
    from clbench.data.audit import audit_stream, audit_table
    from clbench.data.sources import open_source

    streams = {frozenset(one.tasks): one for one in reversed(choose_streams(order, stream))}
    if len(streams) > 1:
        raise ClbenchError(f"audit one set of tasks at a time, not those of {', '.join(map(str, streams.values()))}")
    (chosen,) = streams.values()
    data = str(chosen.file or data)
    settings, asking = _asking(backbone, max_input, chosen, data)
    result = audit_stream(open_source(data, layout, chosen), chosen, asking, settings.max_input)
    if style == "json":
        say(json_text(asdict(result) | {"errors": result.errors}))
    else:
        console = Terminal()
        console.print(audit_table(result))
        for finding in result.findings:
            console.print(str(finding), soft_wrap=True)
        warnings = len(result.findings) - result.errors
        console.print(f"errors: {result.errors}, warnings: {warnings}, data: {data}")
    context.exit(int(result.errors > 0))
