"""What is said of a word of the command line that click does not take: what may be meant, and where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import click

from clbench.errors import ClbenchError
from clbench.names import nearest, plain

# What other programs call settings of ours, where it is neither a word nor the initials of the name.
ELSEWHERE = {
    "model": "--backbone", "model-name-or-path": "--backbone", "dataset": "--data", "tasks": "--stream", "task": "--stream",
    "seed": "--seeds", "output-dir": "--results", "out": "--results", "num-train-epochs": "--epochs", "bs": "--batch-size",
    "lr-scheduler-type": "--schedule", "dtype": "--precision", "max-length": "--max-input", "temperature": "--answers",
}  # fmt: skip


def usage_message(error: click.ClickException, words: Sequence[str]) -> str:
    """Return in one line what is wrong with the words of a command, and what may be meant."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = _no_option(error, words)
    elif isinstance(error, click.NoSuchCommand) and context is not None and isinstance(context.command, click.Group):
        near = nearest(error.command_name, context.command.commands)
        message = f"no command '{error.command_name}'" + _asked(near)
    return message.rstrip(".") + (f" (`{context.command_path} --help`)" if context is not None else "")


def _asked(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _no_option(error: click.NoSuchOption, words: Sequence[str]) -> str:
    name, command = error.option_name, None if error.ctx is None else error.ctx.command
    flags = [flag for param in command.params for flag in param.opts if flag.startswith("--")] if command else []
    message = f"no option {name}"
    if "--set" in flags:
        found = _of_method(name.lstrip("-").replace("-", "_"), words)
        if found:
            return f"{message} of the command; {found}"
    elsewhere = ELSEWHERE.get(name.lstrip("-").replace("_", "-"))
    return message + _asked([elsewhere] if elsewhere in flags else nearest(name, flags))


def _of_method(option: str, words: Sequence[str]) -> str:
    """Return how to give an option of the method that the words name; of the methods that have it, if they name none."""
    from clbench.discovery import find_plugins

    try:
        plugins = find_plugins([Path(file) for file in _values(words, "--plugin")])
    except ClbenchError:
        return ""
    chosen = {word for word in words if not word.startswith("-")} | set(_values(words, "--method"))
    methods = list(plugins.methods.values())
    named = [one for one in methods if any(plain(one.name) == plain(word) for word in chosen)] or methods
    having = [one.name for one in named if option in one.options]
    if not having:
        return ""
    value = next(iter(_values(words, f"--{option.replace('_', '-')}") or _values(words, f"--{option}")), "VALUE")
    return f"it is an option of method{'s' * (len(having) > 1)} {', '.join(having)}: --set {option}={value}"


def _values(words: Sequence[str], flag: str) -> list[str]:
    """Return the values that a flag is given, as `--flag value` or `--flag=value`."""
    after = [value for word, value in pairwise(words) if word == flag]
    return after + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
