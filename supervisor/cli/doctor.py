"""`ptsup doctor`: the runbook's triage, with what to do about each thing that is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import read_config, run_dir_option
from supervisor.config import DEFAULT_RUN_DIR
from supervisor.config.flags import Flags
from supervisor.errors import DriftError

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


@click.command(
    short_help="Say what is wrong, and what mends it.",
    epilog="""\b
examples:
  ptsup doctor
  ptsup doctor --json | jq '.diagnoses[] | select(.good | not)'""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (ptsup.doctor/1).")
@run_dir_option
def doctor(as_json: bool, run_dir: RunDir) -> int:
    """Say what is wrong, and what mends it; without a supervisor too.

    Lines of PASS|id|message and FAIL|id|message, and after a failure NEXT|what to do. Ends with 0
    when all is well, with 5 when anything is not.
    """
    from supervisor.doctor import render_diagnoses
    from supervisor.doctor.find import find_diagnoses
    from supervisor.doctor.stack import take_snapshot
    from telemetry.plain import escape

    cwd = Path.cwd()
    # Its steps go to other directories: what is not the default there has to be said.
    here = run_dir.path == Path(os.path.realpath(DEFAULT_RUN_DIR))
    given = not here or bool(run_dir.read_states())
    options = ("--run-dir", str(run_dir.path)) if given else ()
    snapshot = take_snapshot(run_dir, read_config(None, Flags(), frozenset()), cwd, options)
    found = find_diagnoses(snapshot)
    if as_json:
        diagnoses = [
            {"id": each.id, "good": each.good, "message": each.message, "next": list(each.steps)}
            if not each.good
            else {"id": each.id, "good": True, "message": each.message, "next": []}
            for each in found
        ]
        click.echo(json.dumps({"schema": "ptsup.doctor/1", "diagnoses": diagnoses}))
    else:
        for line in render_diagnoses(found):
            click.echo(escape(line))
    bad = sorted({each.id for each in found if not each.good})
    if bad:
        raise DriftError(f"something is wrong: {', '.join(bad)}", "do what the NEXT lines say")
    return 0
