"""The command line as a whole. Torch is imported only inside the commands that train."""

from __future__ import annotations

import sys
from typing import Any

import click

from clbench import __version__
from clbench.cli.data import audit, streams
from clbench.cli.methods import check_method, methods
from clbench.cli.papers import reproduce
from clbench.cli.pictures import plot, report
from clbench.cli.presets import presets
from clbench.cli.records import compare, leaderboard, rescore, show
from clbench.cli.run import run
from clbench.errors import ClbenchError


class Command(click.Group):
    """A group whose commands end in one line and exit code 2 on a user's error, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClbenchError as error:
            if ctx.params.get("traceback"):
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on after the last finished task", err=True)
            sys.exit(130)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="clbench")
@click.option("--traceback", is_flag=True, help="On an error, show the Python traceback.")
def main(traceback: bool) -> None:
    """Run and compare continual-learning methods on language models."""


for command in (run, methods, check_method, show, leaderboard, compare, rescore, streams, audit):
    main.add_command(command)
for command in (presets, reproduce, plot, report):
    main.add_command(command)
