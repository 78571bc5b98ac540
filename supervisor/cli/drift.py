"""`ptsup drift`: what is not as it should be, looked for when asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import run_dir_option
from supervisor.errors import DriftError, SupervisorDeadError

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


@click.command(
    short_help="Say what is not as it should be.",
    epilog="""\b
examples:
  ptsup drift
  ptsup drift --json | jq -r .drift[].kind""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (ptsup.drift/1).")
@run_dir_option
def drift(as_json: bool, run_dir: RunDir) -> int:
    """Look at everything now, and say what is not as it should be, and what to do about it.

    Ends with 0 when there is nothing, 5 when there is something, 3 when nothing runs, 4 when
    the supervisor is dead: then nobody looks. docs/drift.md tells of each kind.
    """
    from supervisor import client
    from supervisor.control import Request
    from supervisor.drift import SCHEMA

    connection = client.connect(run_dir)
    if connection is None:
        absence = client.find_absence(run_dir)
        if isinstance(absence, SupervisorDeadError):
            raise SupervisorDeadError(
                f"cannot look for drift: {absence.message}",
                "`ptsup start` goes on with what it left, and looks again",
            )
        raise absence
    found = client.ask(connection, Request("drift"))["drift"]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "drift": found}))
    else:
        _print_findings(found)
    if found:
        many = "1 finding" if len(found) == 1 else f"{len(found)} findings"
        raise DriftError(f"not as it should be: {many}", "each says what to do; docs/drift.md")
    return 0


def _print_findings(found: list[dict[str, object]]) -> None:
    import os
    import sys
    from shutil import get_terminal_size

    from supervisor.render import render_drift

    width = get_terminal_size().columns if sys.stdout.isatty() else None
    color = False if os.environ.get("NO_COLOR") else None
    click.echo("\n".join(render_drift(found, width)) or "nothing: all is as planned", color=color)
