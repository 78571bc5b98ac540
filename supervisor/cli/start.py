"""`ptsup start`: everything up, or new sessions for a supervisor that runs already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from supervisor.cli.options import PORT, read_config, run_dir_option, say_sessions
from supervisor.config import Config, RestartWhen, Role
from supervisor.config.flags import Flags
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.admission import Admitted
    from supervisor.rundir import RunDir


# A line has room for so many names.
_SHOWN_WAITING: Final = 10


@click.command(
    short_help="Start metricsd and sessions.",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
examples:
  ptsup start                                   metricsd alone, always on
  ptsup start -- python examples/shadow_session.py --loop
  ptsup start -d -s a='python a.py' -s b='python b.py'
  ptsup start -f ptsup.toml --exit-when-done""",
)
@click.option("-f", "--file", "file", metavar="FILE", help="Read sessions and settings from FILE.")
@click.option(
    "-s",
    "--session",
    "sessions",
    metavar="NAME=COMMAND",
    multiple=True,
    help="Start a session; COMMAND is split like a shell would, and run without one.",
)
@click.option("--port", type=PORT, metavar="N", help="The port of the metrics [default: 9111].")
@click.option("--host", metavar="ADDR", help="The address to listen on [default: 0.0.0.0].")
@click.option(
    "--multiproc-dir",
    metavar="DIR",
    help="The shard directory, named prom_multiproc or prometheus_multiproc "
    "[default: .ops_local/prom_multiproc].",
)
@click.option(
    "--restart",
    type=click.Choice([str(choice) for choice in RestartWhen]),
    help="When to restart the sessions named here [default: no].",
)
@click.option(
    "--exit-when-done",
    is_flag=True,
    help="End when the last session has: with 1 if any failed.",
)
@click.option("-d", "--detach", is_flag=True, help="Return once everything is up and ready.")
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@run_dir_option
def start(
    file: str | None,
    exit_when_done: bool,
    detach: bool,
    run_dir: RunDir,
    **flags: Any,
) -> int:
    """Start metricsd, then sessions; hand them over to a supervisor that runs already.

    Without -d it stays in the foreground and follows the sessions' output: the first Ctrl-C
    stops everything in order, the second at once. With neither FILE nor a session, ptsup.toml
    in the working directory is used, if there is one.
    """
    from supervisor.admission import admit
    from supervisor.client import lock_or_find
    from supervisor.environ import build_starter

    alone = lock_or_find(run_dir)
    taken = run_dir.list_sessions()  # of one that runs, or of one that died
    config = read_config(file, Flags(**flags), frozenset(taken))
    if exit_when_done and not config.sessions:
        raise UsageError("--exit-when-done: there is no session to wait for", "give it one")
    # What one that died here refused besides is refused still.
    denied = config.deny(run_dir.read_own().get("denied", ())).denied
    starter = build_starter(dict(os.environ))  # once: there may be a thousand of them
    sessions = [admit(spec, starter, config.multiproc_dir, denied) for spec in config.members]
    for name in starter.stripped if sessions else ():
        click.echo(f"ptsup: {name!a} is left out of the sessions' environment", err=True)
    if alone:
        run_dir.create()
        alone = run_dir.lock()  # it may just have been made, by us or by another start
    if not alone:
        return _hand_over(config, run_dir, exit_when_done=exit_when_done, detach=detach)
    return _start(config, run_dir, sessions, exit_when_done=exit_when_done, detach=detach)


def _start(
    config: Config,
    run_dir: RunDir,
    sessions: Sequence[Admitted],
    *,
    exit_when_done: bool,
    detach: bool,
) -> int:
    from supervisor import foreground, launch, takeover
    from supervisor.loop import Loop
    from telemetry.plain import escape

    taken = launch.take_over(config, run_dir)
    members = takeover.readmit(taken.former, sessions)
    for line in takeover.render_kept(taken.former, members):
        click.echo(f"ptsup: {escape(line)}", err=True)
    down = takeover.find_kept_down(config, taken.former)
    for name in sorted(down):
        click.echo(f"ptsup: {name} was stopped and stays so; `ptsup restart {name}`", err=True)
    loop = Loop(
        config=taken.config,
        run_dir=run_dir,
        listener=taken.listener,
        former=taken.former,
        members=members,
        inherited=taken.inherited,
        descriptors=taken.descriptors,
        exit_when_done=exit_when_done,
    )
    names = [member.spec.name for member in sessions if member.spec.name not in down]
    given = {member.spec.name: member for member in sessions} | members
    sessions = [given[name] for name in names]
    if not detach:
        return foreground.run(loop, sessions)
    report = launch.run_detached(loop, sessions, _say_waiting)
    click.echo(f"ptsup: metricsd answers on {report['url']} (pid {report['metricsd_pid']})")
    # What an adopted one had come to before is no failure of this start.
    say_sessions([s for s in report["sessions"] if s["name"] not in names], failing=set())
    return say_sessions([s for s in report["sessions"] if s["name"] in names], failing={"fatal"})


def _say_waiting(names: Sequence[str]) -> None:
    shown = ", ".join(names[:_SHOWN_WAITING])
    if len(names) > _SHOWN_WAITING:
        shown += f" and {len(names) - _SHOWN_WAITING} more"
    click.echo(f"ptsup: waits for {shown} to be ready", err=True)


def _hand_over(config: Config, run_dir: RunDir, *, exit_when_done: bool, detach: bool) -> int:
    from supervisor import foreground
    from supervisor.handover import hand_over, render_left_out
    from telemetry.plain import escape

    for line in render_left_out(config, run_dir.read_own()):
        click.echo(f"ptsup: {escape(line)}", err=True)
    sessions = hand_over(config, os.environ, run_dir, ready=detach)
    code = say_sessions(sessions, failing={"fatal"})
    if detach or code:
        return code
    exporters = {spec.name for spec in config.members if spec.role is Role.EXPORTER}
    names = [session["name"] for session in sessions if session["name"] not in exporters]
    if not names:  # an exporter runs for ever: there is nobody to be waited for
        return 0
    ended = foreground.attend(run_dir, names)
    say_sessions(ended, failing=set())
    good = {spec.name: {*spec.policy.success_exit_codes, None} for spec in config.members}
    failed = [s for s in ended if s["state"] == "fatal" or s["returncode"] not in good[s["name"]]]
    return 1 if exit_when_done and failed else 0
