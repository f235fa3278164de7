"""The command line as a whole. Torch is imported only inside the commands that train."""

from __future__ import annotations

import click

from clbench import __version__
from clbench.cli.data import audit, streams
from clbench.cli.doctor import doctor
from clbench.cli.ending import TRACEBACK, Command
from clbench.cli.explain import explain
from clbench.cli.methods import check_method, methods
from clbench.cli.papers import reproduce
from clbench.cli.pictures import plot, report
from clbench.cli.presets import presets
from clbench.cli.records import compare, leaderboard, rescore, show
from clbench.cli.run import run
from clbench.cli.sweep import sweep
from clbench.cli.tune import tune
from clbench.cli.use import export, predict

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "auto_envvar_prefix": "CLBENCH"}


@click.group("clbench", cls=Command, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="clbench")
@click.option(TRACEBACK, is_flag=True, expose_value=False, help="On an error, show the Python traceback as well.")
def main() -> None:
    """Run and compare continual-learning methods on language models."""


for command in (run, sweep, tune, methods, check_method, show, leaderboard, compare, rescore, streams, audit):
    main.add_command(command)
for command in (presets, reproduce, plot, report, doctor, predict, export, explain):
    main.add_command(command)
