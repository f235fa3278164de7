"""The command that looks after a results folder: `clbench doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from clbench.cli.parameters import PATH
from clbench.errors import ClbenchError
from clbench.terminal import say
from clbench.units import counted


@click.command()
@click.argument("results", type=PATH, default=Path("results"))
@click.option("--remove", is_flag=True, help="Remove what can be removed without a loss.")
@click.pass_context
def doctor(context: click.Context, results: Path, remove: bool) -> None:
    """Say what is wrong in a results folder: bad records, and what kills left behind; exit code 1 if a fault stays."""
    from clbench.records.doctor import examine

    stays = 0
    for finding in examine(results):
        if remove and finding.removable:
            try:
                finding.remove()
            except OSError as error:
                raise ClbenchError(f"{finding.path}: cannot be removed: {error.strerror}") from error
            say(f"removed {finding.path}: {finding.fault}")
            continue
        hint = " (--remove removes it)" if finding.removable else ""
        say(f"{finding.path}: {finding.fault}{hint}")
        stays += not finding.harmless
    say(counted(stays, "fault") if stays else "no faults")
    context.exit(int(stays > 0))
