"""The command line: parse, call, print, exit. Whatever it knows, another room told it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import supervisor
from supervisor.config import (
    DEFAULT_FILE,
    DEFAULT_RUN_DIR,
    METRICSD,
    RUN_DIR_VARIABLE,
    SUPERVISOR,
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
from supervisor.rundir import RunDir
from supervisor.scrape_config import DEFAULT_HOST as DEFAULT_SCRAPE_HOST
from supervisor.scrape_config import render_scrape_config
from telemetry.mode import parse_multiproc_dir, parse_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.admission import Admitted

# Rooms that only one command needs are imported by that command: `status` is asked often,
# and has to answer at once.
# ruff: noqa: PLC0415

# How long an ended supervisor may take to be gone from the process table.
GONE_LIMIT_SECONDS: Final = 10.0


def main() -> NoReturn:
    """Run `ptsup`: every error is one line on stderr, a hint, and its exit code."""
    _open_closed_stdio()
    try:
        code = _run()
        sys.stdout.flush()
    except OSError:
        # Whoever read our output is gone; nothing more can be said, and at exit nothing tried.
        code = 1
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_stdio() -> None:
    """See that 0, 1 and 2 are open: else the next lock or socket would become one of them."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _run() -> Any:
    try:
        return cli.main(standalone_mode=False)
    except PtsupError as error:
        return _fail(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        hint = f"see `{_find_command_path(error)} --help`"
        return _fail(UsageError(error.format_message(), hint))
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _fail(PtsupError("interrupted"), 130)


def _fail(error: PtsupError, code: int | None = None) -> int:
    from supervisor.logs import escape

    click.echo(f"ptsup: {escape(error.message)}", err=True)
    if error.hint:
        click.echo(f"  hint: {escape(error.hint)}", err=True)
    return error.exit_code if code is None else code


def _find_command_path(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx:
        return error.ctx.command_path
    # Raised before there was a context: the parser stumbled over a command's own options.
    return f"ptsup {sys.argv[1]}" if sys.argv[1:2] and sys.argv[1] in cli.commands else "ptsup"


class _Number(click.ParamType[Any]):
    """A number for an option, with a name a person would give it in an error."""

    def __init__(self, kind: type[int | float], name: str) -> None:
        self.kind = kind
        self.name = name

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        try:
            number = self.kind(value)
        except ValueError:
            self.fail(f"{value!r} is not a {self.name}", parameter, context)
        if isinstance(number, float) and not 0 <= number < float("inf"):
            self.fail(f"{value!r} is not a {self.name}, 0 or more", parameter, context)
        return number


_SECONDS: Final = _Number(float, "number of seconds")
_PORT: Final = _Number(int, "port number")


def _run_dir(_context: click.Context, _option: click.Parameter, value: str) -> RunDir:
    if not value.strip():
        raise UsageError("--run-dir: it is empty", "leave it out for the default")
    try:
        # Links resolved: the lock, the socket and the records go by the directory itself.
        return RunDir(Path(os.path.realpath(value)))
    except FileNotFoundError:
        raise UsageError(
            "cannot find the working directory: it was removed", "cd to one that is there"
        ) from None


def _complete_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of the sessions a supervisor (alive or dead) knows."""
    default = os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR
    run_dir = RunDir(Path.cwd() / (context.params.get("run_dir") or default))
    return [name for name in run_dir.list_sessions() if name.startswith(incomplete)]


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
names_argument = click.argument(
    "names", metavar="[NAME...]", nargs=-1, shell_complete=_complete_names
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(supervisor.__version__, prog_name="ptsup")
def cli() -> None:
    """Keep shadow/paper trading sessions and their Prometheus exporter alive.

    One metricsd on one port, always on; sessions come and go beside it.
    """


# -- start -------------------------------------------------------------------------------------


@cli.command(
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
@click.option("--port", type=_PORT, metavar="N", help="The port of the metrics [default: 9111].")
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

    alone = lock_or_find(run_dir)
    taken = run_dir.list_sessions()  # of one that runs, or of one that died
    config = _read_config(file, Flags(**flags), frozenset(taken))
    if exit_when_done and not config.sessions:
        raise UsageError("--exit-when-done: there is no session to wait for", "give it one")
    sessions = [admit(spec, os.environ, config.multiproc_dir) for spec in config.sessions]
    for name in sorted({name for session in sessions for name in session.stripped}):
        click.echo(f"ptsup: {name!a} is left out of the sessions' environment", err=True)
    if alone:
        run_dir.create()
        alone = run_dir.lock()  # it may just have been made, by us or by another start
    if not alone:
        return _hand_over(config, run_dir, exit_when_done=exit_when_done, detach=detach)
    return _start(config, run_dir, sessions, exit_when_done=exit_when_done, detach=detach)


def _read_config(file: str | None, flags: Flags, taken: frozenset[str]) -> Config:
    cwd = Path.cwd()
    try:
        fallback = Fallback(
            port=parse_port(os.environ), multiproc_dir=parse_multiproc_dir(os.environ)
        )
    except ValueError as error:
        raise UsageError(str(error), "unset it, or give a port with --port") from None
    path = cwd / (file or DEFAULT_FILE)
    found = FileConfig()
    if file is not None or (path.exists() and not (flags.sessions or flags.command)):
        try:
            found = parse_toml(path.read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise UsageError(f"cannot read {path}: {reason}") from None
    return build_config(flags, found, fallback, cwd, taken)


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

    taken = launch.take_over(config, run_dir)
    for line in takeover.render_kept(taken.former, sessions):
        click.echo(f"ptsup: {line}", err=True)
    down = takeover.find_kept_down(config, taken.former)
    for name in sorted(down):
        click.echo(f"ptsup: {name} was stopped and stays so; `ptsup restart {name}`", err=True)
    loop = Loop(
        config=taken.config,
        run_dir=run_dir,
        listener=taken.listener,
        former=taken.former,
        members=takeover.readmit(taken.former, sessions),
        mended=list(taken.findings),
        exit_when_done=exit_when_done,
    )
    sessions = [member for member in sessions if member.spec.name not in down]
    if not detach:
        return foreground.run(loop, sessions)
    report = launch.run_detached(loop, sessions)
    click.echo(f"ptsup: metricsd answers on {report['url']} (pid {report['metricsd_pid']})")
    given = {member.spec.name for member in sessions}
    # What an adopted one had come to before is no failure of this start.
    _say_sessions([s for s in report["sessions"] if s["name"] not in given], failing=set())
    return _say_sessions([s for s in report["sessions"] if s["name"] in given], failing={"fatal"})


def _hand_over(config: Config, run_dir: RunDir, *, exit_when_done: bool, detach: bool) -> int:
    from supervisor import foreground
    from supervisor.handover import hand_over

    sessions = hand_over(config, os.environ, run_dir)
    code = _say_sessions(sessions, failing={"fatal"})
    if detach or code:
        return code
    ended = foreground.attend(run_dir, [session["name"] for session in sessions])
    _say_sessions(ended, failing=set())
    failed = [s for s in ended if s["state"] == "fatal" or s["returncode"] not in {0, None}]
    return 1 if exit_when_done and failed else 0


def _say_sessions(sessions: list[dict[str, Any]], *, failing: set[str]) -> int:
    """Say a line of each; 1 when any is in a state that means that this command failed."""
    from supervisor.logs import escape
    from supervisor.status import render_process

    code = 0
    for session in sessions:
        failed = session["state"] in failing
        click.echo(f"ptsup: {escape(render_process(session))}", err=failed)
        code = 1 if failed else code
    return code


# -- stop, restart -------------------------------------------------------------------------------


@cli.command(
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
    type=_SECONDS,
    metavar="SECONDS",
    help="How long a session may take before it is killed [default: its own, 75].",
)
@click.option(
    "--drain",
    type=_SECONDS,
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
        return _say_sessions(sessions, failing=set())
    connection, own = client.connect(run_dir), run_dir.read_states().get(SUPERVISOR, {})
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


@cli.command(
    short_help="Stop sessions and start them again.",
    epilog="\b\nexamples:\n  ptsup restart paper\n  ptsup restart paper shadow",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete_names)
@run_dir_option
def restart(names: tuple[str, ...], run_dir: RunDir) -> int:
    """Stop sessions and start them again, with the command and environment they had."""
    from supervisor import client
    from supervisor.foreground import countdown

    with countdown(run_dir):
        result = client.ask_running(run_dir, Request("restart", {"names": list(names)}))
    return _say_sessions(result["sessions"], failing={"fatal", "stopped", "backoff"})


# -- status -------------------------------------------------------------------------------------


@cli.command(
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
    from supervisor import client

    connection = client.connect(run_dir)
    if connection is not None:
        document, code = client.ask(connection, Request("status")), 0
    else:
        from supervisor.orphans import read_dead_status

        dead = read_dead_status(run_dir)
        if dead is None:
            raise client.find_absence(run_dir)
        document, code = dead, SupervisorDeadError.exit_code
    if wanted:
        known = {session["name"] for session in document["sessions"]}
        if missing := sorted(wanted - known):
            raise UsageError(f"no such session: {missing[0]!a}", f"there are: {', '.join(known)}")
        document["sessions"] = [s for s in document["sessions"] if s["name"] in wanted]
    return document, code


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


# -- logs ----------------------------------------------------------------------------------------


@cli.command(
    short_help="Show the output of sessions.",
    epilog="""\b
examples:
  ptsup logs -n 50 paper
  ptsup logs -f""",
)
@names_argument
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
    """Show the output of sessions; `metricsd` and `supervisor` have logs too.

    Without names: of every session there is, or (when nothing runs) was.
    """
    from supervisor.follow import Follow

    known = sorted(path.stem for path in run_dir.logs.glob("*.log"))
    if not known:
        raise NothingRunsError(f"no logs in {run_dir.logs}", "`ptsup start` makes some")
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"no log of {missing[0]!a}", f"there are: {', '.join(known)}")
    sessions = [name for name in known if name not in {METRICSD, SUPERVISOR}]

    def find_names() -> Sequence[str]:
        return names or run_dir.list_sessions() or sessions

    following = Follow(find_names, run_dir.log)
    following.begin(find_names(), lines)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            following.run()
    return 0


# -- init ----------------------------------------------------------------------------------------


@cli.command(
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

    if systemd == launchd:
        raise UsageError("init: which one", "give --systemd or --launchd")
    unit = Unit(
        program=str(Path(sys.argv[0]).absolute()),
        cwd=str(Path.cwd()),
        run_dir=str(run_dir.path),
        log=str(run_dir.log(SUPERVISOR)),
        stop_seconds=find_stop_seconds(_read_config(None, Flags(), frozenset()).sessions),
    )
    click.echo(render_systemd(unit) if systemd else render_launchd(unit), nl=False)
    return 0


# -- scrape-config -------------------------------------------------------------------------------


@cli.command(
    "scrape-config",
    short_help="Print what Prometheus needs to know.",
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
    port = own["port"] if own else _read_config(None, Flags(), frozenset()).port
    click.echo(render_scrape_config(host, port), nl=False)
    return 0


if __name__ == "__main__":
    main()
