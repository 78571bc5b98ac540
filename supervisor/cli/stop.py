"""`ptsup stop` and `ptsup restart`: down, and down and up again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from supervisor.cli.options import (
    SECONDS,
    complete_names,
    names_argument,
    run_dir_option,
    say_sessions,
)
from supervisor.control import Request
from supervisor.errors import PtsupError, UsageError

if TYPE_CHECKING:
    from supervisor.rundir import RunDir

# How long an ended supervisor may take to be gone from the process table.
GONE_LIMIT_SECONDS: Final = 10.0


@click.command(
    short_help="Stop sessions, or everything.",
    epilog="""\b
examples:
  ptsup stop                   everything: sessions, metricsd, shards, state
  ptsup stop paper             one session; the others go on
  ptsup stop --timeout 5       KILL whoever is still there after 5 s""",
)
@names_argument
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="How long a session may take before it is killed [default: its own, 75].",
)
@click.option(
    "--drain",
    type=SECONDS,
    metavar="SECONDS",
    help="How long to wait for Prometheus to scrape the last totals [default: 1.5 intervals].",
)
@click.option("--keep-shards", is_flag=True, help="Leave the shard files where they are.")
@run_dir_option
def stop(
    names: tuple[str, ...],
    timeout: float | None,
    drain: float | None,
    keep_shards: bool,
    run_dir: RunDir,
) -> int:
    """Stop sessions, or (without names) everything, in order, and clean up."""
    from supervisor import client
    from supervisor.foreground import countdown

    if names and (drain is not None or keep_shards):
        raise UsageError(
            "--drain and --keep-shards go with stopping everything", "leave out the names"
        )
    if names:
        request = Request("stop", {"names": list(names), "timeout_seconds": timeout})
        with countdown(run_dir):
            sessions = client.ask_running(run_dir, request)["sessions"]
        return say_sessions(sessions, failing=set())
    connection, own = client.connect(run_dir), run_dir.read_own()
    if connection is None:
        from supervisor.orphans import stop_orphans

        for line in stop_orphans(run_dir, timeout, keep_shards=keep_shards):
            click.echo(f"ptsup: {line}")
        return 0
    parameters = {"timeout_seconds": timeout, "drain_seconds": drain, "keep_shards": keep_shards}
    with countdown(run_dir):
        result = client.ask(connection, Request("stop", parameters), None)
    if not client.wait_until_gone(own.get("pid", -1), own.get("identity"), GONE_LIMIT_SECONDS):
        raise PtsupError(f"the supervisor (pid {own['pid']}) did not end", "see `ptsup status`")
    click.echo(f"ptsup: stopped; drain: {result['drain'] or 'not needed'}")
    return 0


@click.command(
    short_help="Stop sessions and start them again.",
    epilog="\b\nexamples:\n  ptsup restart paper\n  ptsup restart paper shadow",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_names)
@run_dir_option
def restart(names: tuple[str, ...], run_dir: RunDir) -> int:
    """Stop sessions and start them again, with the command and environment they had."""
    from supervisor import client
    from supervisor.foreground import countdown

    with countdown(run_dir):
        result = client.ask_running(run_dir, Request("restart", {"names": list(names)}))
    return say_sessions(result["sessions"], failing={"fatal", "stopped", "backoff"})
