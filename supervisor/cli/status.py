"""`ptsup status`: what runs, or what a dead supervisor left."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli.options import names_argument, run_dir_option
from supervisor.errors import SupervisorDeadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.rundir import RunDir

_ROLES = ("sessions", "exporters")


@click.command(
    short_help="Say what runs.",
    epilog="""\b
examples:
  ptsup status
  ptsup status --json | jq .sessions
  ptsup status --watch paper""",
)
@names_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (ptsup.status/1).")
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@run_dir_option
def status(names: tuple[str, ...], as_json: bool, watch: bool, run_dir: RunDir) -> int:
    """Say what runs: the supervisor, metricsd, the shards and each session.

    Ends with 0 when a supervisor runs, 3 when nothing does, 4 when it died.
    """
    if watch and as_json:
        raise UsageError("--watch and --json do not go together", "give one of them")
    wanted = frozenset(names)
    if watch:
        return _watch(lambda: _read_status(run_dir, wanted)[0])
    document, code = _read_status(run_dir, wanted)
    if as_json:
        click.echo(json.dumps(document))
    else:
        _print_table(document)
    if code:
        from supervisor.client import build_silence

        pid = document["supervisor"]["pid"]
        if document["supervisor"]["state"] != "dead":
            raise build_silence(pid)
        raise SupervisorDeadError(
            f"the supervisor (pid {pid}) is dead",
            "`ptsup start` goes on with what it left; `ptsup stop` ends that and cleans up",
        )
    return code


def _read_status(run_dir: RunDir, wanted: frozenset[str]) -> tuple[dict[str, Any], int]:
    from supervisor.report import read_report

    document, answered = read_report(run_dir)
    if wanted:
        known = {each["name"] for role in _ROLES for each in document[role]}
        if missing := sorted(wanted - known):
            raise UsageError(f"no such session: {missing[0]!a}", f"there are: {', '.join(known)}")
        for role in _ROLES:
            document[role] = [each for each in document[role] if each["name"] in wanted]
    return document, 0 if answered else SupervisorDeadError.exit_code


def _print_table(document: dict[str, Any]) -> None:
    from shutil import get_terminal_size

    from supervisor.render import render_status

    # A pipe has no width: nothing is cut.
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    color = False if os.environ.get("NO_COLOR") else None
    click.echo("\n".join(render_status(document, width)), color=color)


def _watch(read: Callable[[], dict[str, Any]]) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from supervisor.render import render_status

    console = Console()
    try:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                lines = render_status(read(), console.width, console.height)
                live.update(Text.from_ansi("\n".join(lines)), refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return 0
