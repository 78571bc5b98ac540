"""`ptsup init`: what a new place needs, as text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import read_config, run_dir_option
from supervisor.config import SUPERVISOR
from supervisor.config.flags import Flags
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


@click.command(
    short_help="Print what starts ptsup with the machine.",
    epilog="""\b
examples:
  ptsup init --systemd > ~/.config/systemd/user/ptsup.service
  ptsup init --launchd > ~/Library/LaunchAgents/ptsup.plist""",
)
@click.option("--systemd", is_flag=True, help="A systemd unit for `ptsup start` in this directory.")
@click.option("--launchd", is_flag=True, help="A launchd property list for the same.")
@run_dir_option
def init(systemd: bool, launchd: bool, run_dir: RunDir) -> int:
    """Print the unit that keeps the supervisor itself running; docs/supervised.md explains it.

    It starts what ptsup.toml in this directory names. A crash of the supervisor ends no session:
    it is started again, and adopts them.
    """
    from supervisor.units import Unit, find_stop_seconds, render_launchd, render_systemd

    if not str(run_dir.path).isprintable() or not str(Path.cwd()).isprintable():
        raise UsageError(
            "cannot write a unit: a path holds control characters", "rename that directory"
        )
    if systemd == launchd:
        raise UsageError("init: which one", "give --systemd or --launchd")
    unit = Unit(
        program=str(Path(sys.argv[0]).absolute()),
        cwd=str(Path.cwd()),
        run_dir=str(run_dir.path),
        log=str(run_dir.log(SUPERVISOR)),
        stop_seconds=find_stop_seconds(read_config(None, Flags(), frozenset()).sessions),
    )
    click.echo(render_systemd(unit) if systemd else render_launchd(unit), nl=False)
    return 0
