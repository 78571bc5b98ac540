"""The command line: parse, call, print, exit. Whatever it knows, another room told it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import supervisor
from supervisor.config import (
    DEFAULT_FILE,
    DEFAULT_RUN_DIR,
    METRICSD,
    RUN_DIR_VARIABLE,
    Config,
    Fallback,
    FileConfig,
    Flags,
    RestartWhen,
    build_config,
    parse_toml,
)
from supervisor.control import Request
from supervisor.errors import NothingRunsError, PtsupError, SupervisorDeadError, UsageError
from supervisor.rundir import SUPERVISOR, RunDir
from supervisor.scrape_config import DEFAULT_HOST as DEFAULT_SCRAPE_HOST
from supervisor.scrape_config import render_scrape_config
from telemetry.mode import parse_multiproc_dir, parse_port

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from supervisor.launch import Launch
    from supervisor.loop import Loop

# Rooms that only one command needs are imported by that command: `status` is asked often,
# and has to answer at once.
# ruff: noqa: PLC0415

# How long an ended supervisor may take to be gone from the process table.
GONE_LIMIT_SECONDS: Final = 10.0
# How often a countdown asks the supervisor anew.
FOOTER_SECONDS: Final = 1.0


def main() -> NoReturn:
    """Run `ptsup`: every error is one line on stderr, a hint, and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except PtsupError as error:
        code = _fail(error)
    except click.exceptions.Abort:
        code = _fail(PtsupError("interrupted"), 130)
    except click.ClickException as error:
        where = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ptsup"
        )
        code = _fail(UsageError(error.format_message(), f"see `{where} --help`"))
    except KeyboardInterrupt:
        code = _fail(PtsupError("interrupted"), 130)
    except BrokenPipeError:
        # Whoever read our output has closed it; nothing more is to be said, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: PtsupError, code: int | None = None) -> int:
    from supervisor.logs import escape

    click.echo(f"ptsup: {escape(error.message)}", err=True)
    if error.hint:
        click.echo(f"  hint: {escape(error.hint)}", err=True)
    return error.exit_code if code is None else code


def _run_dir(_context: click.Context, _option: click.Parameter, value: str) -> RunDir:
    return RunDir(Path(os.path.abspath(value)))  # noqa: PTH100 - Path.absolute keeps ".."


def _complete_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of the sessions a supervisor (alive or dead) knows."""
    default = os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR
    run_dir = RunDir(Path.cwd() / (context.params.get("run_dir") or default))
    known = run_dir.read_states().keys() - {METRICSD, SUPERVISOR}
    return sorted(name for name in known if name.startswith(incomplete))


run_dir_option = click.option(
    "--run-dir",
    metavar="DIR",
    envvar=RUN_DIR_VARIABLE,
    default=DEFAULT_RUN_DIR,
    show_default=True,
    callback=_run_dir,
    help="Where this supervisor keeps its lock, state, control socket and logs "
    f"[env: {RUN_DIR_VARIABLE}].",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(supervisor.__version__, prog_name="ptsup")
def cli() -> None:
    """Keep shadow/paper trading sessions and their Prometheus exporter alive.

    One metricsd on one port, always on; sessions come and go beside it.
    """


# -- start -------------------------------------------------------------------------------------


@cli.command(
    epilog="""\b
examples:
  ptsup start                                   metricsd alone, always on
  ptsup start -- python examples/shadow_session.py --loop
  ptsup start -d -s a='python a.py' -s b='python b.py'
  ptsup start -f ptsup.toml --exit-when-done"""
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
@click.option("--port", type=int, metavar="N", help="The port of the metrics [default: 9111].")
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
@click.option("-d", "--detach", is_flag=True, help="Return once everything is up.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@run_dir_option
def start(
    file: str | None,
    sessions: tuple[str, ...],
    port: int | None,
    host: str | None,
    multiproc_dir: str | None,
    restart: str | None,
    exit_when_done: bool,
    detach: bool,
    command: tuple[str, ...],
    run_dir: RunDir,
) -> int:
    """Start metricsd, then sessions; hand them over to a supervisor that runs already.

    Without -d it stays in the foreground and follows the sessions' output: the first Ctrl-C
    stops everything in order, the second at once.
    """
    from supervisor import launch
    from supervisor.admission import admit

    flags = Flags(
        host=host,
        port=port,
        multiproc_dir=multiproc_dir,
        restart=restart,
        sessions=sessions,
        command=command,
    )
    config = _read_config(file, flags)
    admitted = [admit(spec, os.environ, config.multiproc_dir) for spec in config.sessions]
    run_dir.create()
    if not run_dir.lock():
        return _hand_over(config, flags, run_dir, detach=detach)
    listener = launch.take_over(config, run_dir)
    for name in sorted({name for member in admitted for name in member.stripped}):
        click.echo(f"ptsup: {name} is left out of the sessions' environment", err=True)
    prepared = launch.Launch(
        config=config,
        run_dir=run_dir,
        listener=listener,
        sessions=admitted,
        exit_when_done=exit_when_done,
    )
    if detach:
        report = launch.run_detached(prepared)
        click.echo(f"ptsup: {_render_started(report)}")
        return _say_sessions(report["sessions"])
    return _run_in_foreground(prepared)


def _read_config(file: str | None, flags: Flags) -> Config:
    cwd = Path.cwd()
    try:
        fallback = Fallback(
            port=parse_port(os.environ), multiproc_dir=parse_multiproc_dir(os.environ)
        )
    except ValueError as error:
        raise UsageError(str(error), "unset it, or give a port with --port") from None
    path = cwd / (file or DEFAULT_FILE)
    wanted = file is not None or not (flags.sessions or flags.command)
    found = FileConfig()
    if wanted and (file is not None or path.exists()):
        try:
            found = parse_toml(path.read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise UsageError(f"cannot read {path}: {reason}") from None
    return build_config(flags, found, fallback, cwd)


def _render_started(report: dict[str, Any]) -> str:
    host = f"[{report['host']}]" if ":" in report["host"] else report["host"]
    url = f"http://{host}:{report['port']}/metrics"
    return f"metricsd answers on {url} (pid {report['metricsd_pid']})"


def _say_sessions(sessions: list[dict[str, Any]]) -> int:
    failed = [session for session in sessions if session["state"] == "fatal"]
    for session in sessions:
        if session not in failed:
            pid = f" (pid {session['pid']})" if session["pid"] else ""
            click.echo(f"ptsup: {session['name']} is {session['state']}{pid}")
    for session in failed:
        _fail(PtsupError(f"{session['name']}: {session['reason']}"))
    return 1 if failed else 0


def _run_in_foreground(prepared: Launch) -> int:
    import logging

    from supervisor import launch
    from supervisor.follow import Follow
    from supervisor.status import render_stopping

    names = [member.spec.name for member in prepared.sessions]
    loops: list[Loop] = []
    follow = Follow(
        find_names=lambda: loops[0].fleet.sessions if loops else names,
        find_log=prepared.run_dir.log,
        find_footer=lambda: render_stopping(loops[0].find_stopping()) if loops else "",
    )
    follow.begin(names)
    # Said by the follower, not from here: a terminal on hold must not hold up the supervisor.
    handler = logging.Handler()
    handler.emit = lambda record: follow.say(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    def report(loop: Loop) -> None:
        loops.append(loop)
        follow.say(_render_started(launch.build_report(loop)))

    with follow.beside():
        return launch.run(prepared, report)


def _hand_over(config: Config, flags: Flags, run_dir: RunDir, *, detach: bool) -> int:
    """Give the sessions to the supervisor that runs here; follow only them."""
    from supervisor import client
    from supervisor.errors import PortHeldError

    connection = client.connect(run_dir)
    own = run_dir.read_states().get(SUPERVISOR, {})
    if connection is None:
        raise SupervisorDeadError(
            f"cannot start: the supervisor (pid {own.get('pid')}) does not answer",
            "see `ptsup status`",
        )
    if not config.sessions:
        raise PortHeldError(
            f"cannot start: a supervisor (pid {own.get('pid')}) runs in {run_dir.path} already",
            "give it sessions, or stop it with `ptsup stop`",
        )
    for option, given, there in (
        ("--port", flags.port, own.get("port")),
        ("--host", flags.host, own.get("host")),
        (
            "--multiproc-dir",
            flags.multiproc_dir and str(config.multiproc_dir),
            own.get("multiproc_dir"),
        ),
    ):
        if given is not None and given != there:
            raise UsageError(
                f"cannot start: the supervisor that runs here has {option} {there}",
                f"leave {option} out, or start another supervisor with its own --run-dir",
            )
    documents = [session.to_document() for session in config.sessions]
    request = Request("start", {"sessions": documents, "environ": dict(os.environ)})
    sessions = client.ask(connection, request, None)["sessions"]
    code = _say_sessions(sessions)
    if detach or code:
        return code
    return _follow_handed_over(run_dir, [session["name"] for session in sessions])


def _follow_handed_over(run_dir: RunDir, names: list[str]) -> int:
    """Show the output of these until they have ended; Ctrl-C (or TERM) stops only them."""
    from supervisor.follow import Follow

    # Both, as the foreground supervisor does it: a script's `&` would leave SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    wishes = [
        Request("wait", {"names": names}),
        Request("stop", {"names": names}),
        Request("stop", {"names": names, "timeout_seconds": 0}),
    ]
    follow = Follow(lambda: names, run_dir.log, _Stopping(run_dir).render)
    with follow.beside():
        for wish in wishes:
            with contextlib.suppress(KeyboardInterrupt):
                sessions = _ask(run_dir, wish)["sessions"]
                break
        else:
            raise PtsupError("interrupted")
    return _say_sessions(sessions)


@dataclass(slots=True)
class _Stopping:
    """The footer of a client: asks the supervisor now and then who is still stopping."""

    run_dir: RunDir
    document: dict[str, Any] = field(default_factory=lambda: {"sessions": []})
    asked_at: float = -math.inf

    def render(self) -> str:
        from supervisor import client
        from supervisor.status import find_stopping, render_stopping

        now = time.monotonic()
        if now - self.asked_at >= FOOTER_SECONDS:
            self.asked_at = now
            connection = client.connect(self.run_dir)
            with contextlib.suppress(PtsupError):
                if connection is not None:
                    self.document = client.ask(connection, Request("status"))
        return render_stopping(find_stopping(self.document, now - self.asked_at))


# -- stop, restart -----------------------------------------------------------------------------


@cli.command(
    epilog="""\b
examples:
  ptsup stop                   everything: sessions, metricsd, shards, state
  ptsup stop paper             one session; the others go on
  ptsup stop --timeout 5       KILL whoever is still there after 5 s"""
)
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=_complete_names)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long a session may take before it is killed [default: its own, 75].",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
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
    if names:
        return _stop_names(run_dir, list(names), timeout)
    from supervisor import client

    connection, own = client.connect(run_dir), run_dir.read_states().get(SUPERVISOR, {})
    if connection is None:
        from supervisor.orphans import stop_orphans

        for line in stop_orphans(run_dir, timeout, keep_shards=keep_shards):
            click.echo(f"ptsup: {line}")
        return 0
    parameters = {"timeout_seconds": timeout, "drain_seconds": drain, "keep_shards": keep_shards}
    result = _stop_with_countdown(run_dir, connection, Request("stop", parameters))
    if not client.wait_until_gone(own.get("pid", -1), own.get("identity"), GONE_LIMIT_SECONDS):
        raise PtsupError(f"the supervisor (pid {own['pid']}) did not end", "see `ptsup status`")
    click.echo(f"ptsup: stopped; drain: {result['drain'] or 'not needed'}")
    return 0


def _stop_names(run_dir: RunDir, names: list[str], timeout: float | None) -> int:
    request = Request("stop", {"names": names, "timeout_seconds": timeout})
    result = _stop_with_countdown(run_dir, _connect(run_dir), request)
    return _say_sessions(result["sessions"])


def _stop_with_countdown(
    run_dir: RunDir, connection: socket.socket, request: Request
) -> dict[str, Any]:
    from supervisor import client
    from supervisor.follow import Follow

    # Nobody's output is shown, only the footer: who is still stopping.
    with Follow(tuple, run_dir.log, _Stopping(run_dir).render).beside():
        return client.ask(connection, request, None)


@cli.command(epilog="\b\nexamples:\n  ptsup restart paper")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete_names)
@run_dir_option
def restart(names: tuple[str, ...], run_dir: RunDir) -> int:
    """Stop sessions and start them again."""
    return _say_sessions(_ask(run_dir, Request("restart", {"names": list(names)}))["sessions"])


def _ask(run_dir: RunDir, request: Request) -> dict[str, Any]:
    """Ask a supervisor that has to be there; the answer may take as long as it takes."""
    from supervisor import client

    return client.ask(_connect(run_dir), request, None)


def _connect(run_dir: RunDir) -> socket.socket:
    from supervisor import client

    connection = client.connect(run_dir)
    if connection is not None:
        return connection
    if run_dir.read_states():
        raise SupervisorDeadError(
            f"the supervisor of {run_dir.path} is dead",
            "see `ptsup status`; `ptsup stop` ends the rest",
        )
    raise _nothing_runs(run_dir)


def _nothing_runs(run_dir: RunDir) -> NothingRunsError:
    return NothingRunsError(f"nothing runs in {run_dir.path}", "`ptsup start` starts it")


# -- status ------------------------------------------------------------------------------------


@cli.command(
    epilog="""\b
examples:
  ptsup status
  ptsup status --json | jq .sessions
  ptsup status --watch paper"""
)
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=_complete_names)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (ptsup.status/1).")
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@run_dir_option
def status(names: tuple[str, ...], as_json: bool, watch: bool, run_dir: RunDir) -> int:
    """Say what runs: the supervisor, metricsd, the shards and each session.

    Ends with 0 when a supervisor runs, 3 when nothing does, 4 when it died.
    """
    wanted = frozenset(names)
    if watch and not as_json:
        return _watch(lambda: _read_status(run_dir, wanted))
    document, code = _read_status(run_dir, wanted)
    if as_json:
        click.echo(json.dumps(document))
    else:
        _print_table(document)
    if code:
        raise SupervisorDeadError(
            f"the supervisor (pid {document['supervisor']['pid']}) is dead",
            "`ptsup stop` ends what it left and cleans up",
        )
    return code


def _read_status(run_dir: RunDir, wanted: frozenset[str]) -> tuple[dict[str, Any], int]:
    from supervisor import client

    connection = client.connect(run_dir)
    if connection is not None:
        document, code = client.ask(connection, Request("status")), 0
    else:
        from supervisor.orphans import read_dead_status

        dead = read_dead_status(run_dir)
        if dead is None:
            raise _nothing_runs(run_dir)
        document, code = dead, SupervisorDeadError.exit_code
    if wanted:
        known = {session["name"] for session in document["sessions"]}
        if missing := sorted(wanted - known):
            raise UsageError(f"no such session: {missing[0]}", f"there are: {', '.join(known)}")
        document["sessions"] = [s for s in document["sessions"] if s["name"] in wanted]
    return document, code


def _print_table(document: dict[str, Any]) -> None:
    from rich.console import Console

    from supervisor.render import render_status

    console = Console()
    console.print(render_status(document, console.width))


def _watch(read: Callable[[], tuple[dict[str, Any], int]]) -> int:
    from rich.console import Console
    from rich.live import Live

    from supervisor.render import render_status

    console = Console()
    try:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(render_status(read()[0], console.width, console.height), refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return 0


# -- logs --------------------------------------------------------------------------------------


@cli.command(
    epilog="""\b
examples:
  ptsup logs -n 50 paper
  ptsup logs -f"""
)
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=_complete_names)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="LINES",
    help="How many of the last lines of each to begin with.",
)
@run_dir_option
def logs(names: tuple[str, ...], follow: bool, lines: int, run_dir: RunDir) -> int:
    """Show the output of sessions; `metricsd` and `supervisor` have logs too."""
    from supervisor.follow import Follow

    known = sorted(path.stem for path in run_dir.logs.glob("*.log"))
    if missing := [name for name in names if name not in known]:
        raise UsageError(
            f"no log of {missing[0]!r} in {run_dir.logs}",
            f"there are: {', '.join(known)}" if known else "",
        )
    chosen = list(names) or [n for n in known if n not in {METRICSD, SUPERVISOR}] or known
    following = Follow(lambda: chosen, run_dir.log)
    following.begin(chosen, lines)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            following.run()
    return 0


# -- scrape-config ---------------------------------------------------------------------------------


@cli.command(
    "scrape-config",
    epilog="""\b
examples:
  ptsup scrape-config                        for a Prometheus in a container
  ptsup scrape-config --host 127.0.0.1       for one on this machine""",
)
@click.option(
    "--host",
    metavar="ADDR",
    default=DEFAULT_SCRAPE_HOST,
    show_default=True,
    help="What Prometheus calls this machine.",
)
@run_dir_option
def scrape_config(host: str, run_dir: RunDir) -> int:
    """Print what Prometheus needs to know: the scrape_configs section of its file."""
    own = run_dir.read_states().get(SUPERVISOR)
    port = own["port"] if own else _read_config(None, Flags()).port
    click.echo(render_scrape_config(host, port), nl=False)
    return 0


if __name__ == "__main__":
    main()
