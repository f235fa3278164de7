"""The command that looks after a results folder: `clbench doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from clbench.cli.parameters import PATH, json_option
from clbench.errors import ClbenchError
from clbench.terminal import json_text, say
from clbench.units import counted


@click.command()
@click.argument("results", type=PATH, default=Path("results"))
@click.option("--remove", is_flag=True, help="Remove what can be removed without a loss.")
@json_option
@click.pass_context
def doctor(context: click.Context, results: Path, remove: bool, style: str) -> None:
    """Say what is wrong in a results folder: bad records, and what kills left behind; exit code 1 if a fault stays."""
    from clbench.records.doctor import examine

    stays, values = 0, []
    for finding in examine(results):
        removed = remove and finding.removable
        if removed:
            try:
                finding.remove()
            except OSError as error:
                raise ClbenchError(f"{finding.path}: cannot be removed: {error.strerror}") from error
        hint = " (--remove removes it)" if finding.removable and not removed else ""
        values.append({**asdict(finding), "path": str(finding.path), "removed": removed})
        stays += not removed and not finding.harmless
        if style == "table":
            say(f"{'removed ' * removed}{finding.path}: {finding.fault}{hint}")
    say(json_text(values) if style == "json" else counted(stays, "fault") if stays else "no faults")
    context.exit(int(stays > 0))
