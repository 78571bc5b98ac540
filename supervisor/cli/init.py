"""`ptsup init`: what a new place needs: a ptsup.toml, or the unit that starts ptsup there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import read_config, run_dir_option
from supervisor.config import DEFAULT_FILE, SUPERVISOR
from supervisor.config.flags import Flags
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


@click.command(
    short_help="Write a ptsup.toml; print what starts ptsup with the machine.",
    epilog="""\b
examples:
  ptsup init                   writes ptsup.toml here, with every key as a comment
  ptsup init --systemd > ~/.config/systemd/user/ptsup.service
  ptsup init --launchd > ~/Library/LaunchAgents/ptsup.plist""",
)
@click.option("--systemd", is_flag=True, help="A systemd unit for `ptsup start` in this directory.")
@click.option("--launchd", is_flag=True, help="A launchd property list for the same.")
@run_dir_option
def init(systemd: bool, launchd: bool, run_dir: RunDir) -> int:
    """Write a commented ptsup.toml into this directory; one that is there is never overwritten.

    With --systemd or --launchd: print the unit that keeps the supervisor itself running, which
    starts what ptsup.toml names; docs/supervised.md explains it. A crash of the supervisor ends
    no session: it is started again, and adopts them.
    """
    from supervisor.units import Unit, find_stop_seconds, render_launchd, render_systemd

    if systemd and launchd:
        raise UsageError("init: which one", "give --systemd or --launchd")
    if not systemd and not launchd:
        _write_example(Path.cwd() / DEFAULT_FILE)
        click.echo(f"ptsup: wrote {DEFAULT_FILE}; put your command in, then `ptsup start`")
        return 0
    if not str(run_dir.path).isprintable() or not str(Path.cwd()).isprintable():
        raise UsageError(
            "cannot write a unit: a path holds control characters", "rename that directory"
        )
    unit = Unit(
        program=str(Path(sys.argv[0]).absolute()),
        cwd=str(Path.cwd()),
        run_dir=str(run_dir.path),
        log=str(run_dir.log(SUPERVISOR)),
        stop_seconds=find_stop_seconds(read_config(None, Flags(), frozenset()).members),
    )
    click.echo(render_systemd(unit) if systemd else render_launchd(unit), nl=False)
    return 0


def _write_example(path: Path) -> None:
    from supervisor.config.example import EXAMPLE

    try:
        with path.open("x", encoding="utf-8") as file:  # never over what is there, a link neither
            file.write(EXAMPLE)
    except FileExistsError:
        raise UsageError(
            f"cannot write {path}: it is there already", "move it away, or edit it"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
