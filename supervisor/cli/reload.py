"""`ptsup reload`: the file as it is now, and nobody touched for whom nothing has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from supervisor.cli.options import run_dir_option, say_sessions
from supervisor.control import Request
from telemetry.plain import escape

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


@click.command(
    short_help="Apply what has changed in the file.",
    epilog="""\b
examples:
  ptsup reload                 apply it
  ptsup reload --dry-run       only say what is otherwise""",
)
@click.option("--dry-run", is_flag=True, help="Say what has changed, and do nothing.")
@run_dir_option
def reload(dry_run: bool, run_dir: RunDir) -> int:
    """Read the file this supervisor was started with anew, and apply what has changed in it.

    Sessions for which nothing has changed are not touched, nor are those from the command line
    or handed over. A file with a mistake changes nothing. New values are never shown.
    """
    from supervisor import client
    from supervisor.config.diff import render_difference
    from supervisor.foreground import countdown

    with countdown(run_dir):
        result = client.ask_running(run_dir, Request("reload", {"apply": not dry_run}))
    for line in render_difference(result["difference"]):
        click.echo(escape(line))
    return say_sessions(result["sessions"], failing={"fatal", "backoff"})
