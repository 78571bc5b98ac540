"""What an operator may get wrong at `ptsup start`: one table for the tests and docs/errors.md."""

from __future__ import annotations

from dataclasses import dataclass, field

LONG = "x" * 300


@dataclass(frozen=True)
class Row:
    """One mistake: what is typed (or written), the words of the answer, the exit code."""

    what: str
    says: str
    code: int = 2
    arguments: tuple[str, ...] = ("--", "sleep", "600")
    toml: str = ""
    environ: dict[str, str] = field(default_factory=dict)


def session(text: str) -> tuple[str, ...]:
    return ("-s", text)


ROWS = (
    Row("a program that is not there", "no such program: nowhere", arguments=session("a=nowhere")),
    Row("a path that is not there", "no such program: ./gone", arguments=session("a=./gone x")),
    Row(
        "a file that is no program",
        "not an executable program: /etc/passwd",
        arguments=session("a=/etc/passwd"),
    ),
    Row("a directory", "not an executable program: /tmp", arguments=session("a=/tmp")),
    Row("an empty command", "-s a: the command is empty", arguments=session("a=")),
    Row("an empty program", "-s a: the command is empty", arguments=session("a='' x")),
    Row("an open quotation", "No closing quotation", arguments=session("a='sleep 1")),
    Row("a session without =", "not of the form NAME=COMMAND", arguments=session("justaname")),
    Row("a name with a path", "'../x' is not a session name", arguments=session("../x=sleep 1")),
    Row("a name with blanks", "' a' is not a session name", arguments=session(" a=sleep 1")),
    Row("a name of 300 characters", "is not a session name", arguments=session(f"{LONG}=sleep 1")),
    Row(
        "a name with control characters",
        r"'a\x1b[31m' is not a session name",
        arguments=session("a\x1b[31m=sleep 1"),
    ),
    Row("no name", "'' is not a session name", arguments=session("=sleep 1")),
    Row("a name of ptsup's own", "'metricsd' is ptsup's own", arguments=session("metricsd=true")),
    Row(
        "the same name twice",
        "two sessions are named 'a'",
        arguments=(*session("a=sleep 1"), *session("a=sleep 1")),
    ),
    Row(
        "the same name but for its case",
        "two sessions are named 'A'",
        arguments=(*session("a=sleep 1"), *session("A=sleep 1")),
    ),
    Row("port 0", "--port: 0 is not a port", arguments=("--port", "0")),
    Row("port 70000", "--port: 70000 is not a port", arguments=("--port", "70000")),
    Row("a port that is no number", "'http' is not a port number", arguments=("--port", "http")),
    Row("an empty address", "--host: it is empty", arguments=("--host", "")),
    Row("an empty directory", "--multiproc-dir: it is empty", arguments=("--multiproc-dir", "")),
    Row("an empty run directory", "--run-dir: it is empty", arguments=("--run-dir", "")),
    Row(
        "nothing to wait for",
        "--exit-when-done: there is no session",
        arguments=("--exit-when-done",),
    ),
    Row(
        "a port in the environment that is none",
        "PEAK_TRADE_METRICSD_PORT is 'abc'",
        environ={"PEAK_TRADE_METRICSD_PORT": "abc"},
    ),
    Row(
        "an address of another machine",
        "cannot listen on 203.0.113.7:9111: Cannot assign requested address",
        arguments=("--host", "203.0.113.7"),
    ),
    Row("an option that is none", "No such option '--nonsense'", arguments=("--nonsense",)),
    Row(
        "a restart policy that is none",
        "'sometimes' is not one of",
        arguments=("--restart", "sometimes"),
    ),
    Row(
        "a shard directory that may not be cleared",
        "its name is 'elsewhere'",
        arguments=("--multiproc-dir", "elsewhere"),
    ),
    Row("the root directory for shards", "root directory", arguments=("--multiproc-dir", "/")),
    Row(
        "a file for a shard directory",
        "it is not a directory",
        arguments=("--multiproc-dir", "prom_multiproc"),
    ),
    Row(
        "a run directory that is a file",
        "cannot use the run directory",
        arguments=("--run-dir", "prom_multiproc"),
    ),
    Row(
        "a run directory nobody can make",
        "cannot use the run directory /proc/ptsup: No such file",
        arguments=("--run-dir", "/proc/ptsup"),
    ),
    Row("a file that is not there", "gone.toml: No such file", arguments=("-f", "gone.toml")),
    Row("bad TOML", "ptsup.toml:2: Invalid value", arguments=(), toml="\nport = "),
    Row("an unknown key", "ptsup.toml:1: prot: unknown key", arguments=(), toml="prot = 9111"),
    Row(
        "an unknown key of a session",
        "ptsup.toml:3: session.a.restrat: unknown key",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nrestrat = 'no'",
    ),
    Row(
        "a session without a command",
        "ptsup.toml:1: session.a: no command",
        arguments=(),
        toml="[session.a]\nrestart = 'no'",
    ),
    Row(
        "a command of another type",
        "ptsup.toml:2: session.a.command: the command is neither",
        arguments=(),
        toml="[session.a]\ncommand = 7",
    ),
    Row("a port out of range", "ptsup.toml:1: port: 70000", arguments=(), toml="port = 70000"),
    Row(
        "a variable that is no string",
        "session.a.env.X: the value is not a string",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\n[session.a.env]\nX = 3",
    ),
    Row("sessions that are no table", "ptsup.toml:1: session", arguments=(), toml="session = 3"),
    Row(
        "a timeout below zero",
        "ptsup.toml:3: session.a.stop_timeout_seconds: -1",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nstop_timeout_seconds = -1",
    ),
    Row(
        "live trading in the environment",
        "PEAK_TRADE_LIVE_ENABLED",
        code=6,
        environ={"PEAK_TRADE_LIVE_ENABLED": "True"},
    ),
    Row("live trading in the arguments", "--live", code=6, arguments=("--", "sleep", "--live")),
    Row(
        "an attempt to shorten the list of NO-LIVE",
        "ptsup.toml:2: gates.deny: '!LIVE' is not the name of a variable",
        arguments=(),
        toml="[gates]\ndeny = ['!LIVE']",
    ),
    Row(
        "a list of NO-LIVE that is none",
        "ptsup.toml:2: gates.deny: not a list of names",
        arguments=(),
        toml="[gates]\ndeny = 'LIVE'",
    ),
    Row(
        "an unknown name to wait for",
        "ptsup.toml:3: session.a.start_after: there is no 'b'",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nstart_after = ['b']",
    ),
    Row(
        "sessions that wait for each other",
        "they wait for each other: a → b → a",
        arguments=(),
        toml="[session]\na = {command = 'x', start_after = ['b']}\n"
        "b = {command = 'x', start_after = ['a']}",
    ),
    Row(
        "a readiness by nothing",
        "ptsup.toml:3: session.a.ready: give it one of port and http",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nready = {}",
    ),
    Row(
        "an env_file that is not there",
        "session.a.env_file: cannot read",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nenv_file = 'gone.env'",
    ),
    Row(
        "a signal that is none",
        "session.a.stop_signal: 'STOP' is not one of TERM",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nstop_signal = 'STOP'",
    ),
    Row(
        "a log that would be rotated all the time",
        "session.a.log.max_bytes: 4096 is not the size of a log",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nlog = { max_bytes = 4096 }",
    ),
    Row(
        "a limit that is none",
        "session.a.limits.nofile: -1 is not a limit",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nlimits = { nofile = -1 }",
    ),
    Row(
        "mode A without a port",
        "session.a.mode: a session in mode A needs a port of its own",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\nmode = 'A'",
    ),
    Row(
        "mode A on metricsd's port",
        "session.a: port 9112 is that of metricsd",
        arguments=(),
        toml="port = 9112\n[session.a]\ncommand = 'sleep 1'\nmode = 'A'\nport = 9112",
    ),
    Row(
        "a label that may never be",
        "ptsup.toml:1: allow_labels: the label 'symbol' can never be allowed",
        arguments=(),
        toml="allow_labels = ['symbol']",
    ),
    Row(
        "an exporter without a port",
        "ptsup.toml:1: exporter.a: no port",
        arguments=(),
        toml="[exporter.a]\ncommand = 'sleep 1'",
    ),
    Row(
        "an exporter with the name of a session",
        "exporter.a: the name 'a' is taken by line 1: session.a",
        arguments=(),
        toml="[session.a]\ncommand = 'sleep 1'\n[exporter.a]\ncommand = 'sleep 1'\nport = 9112",
    ),
    Row(
        "a way to live trading in an exporter",
        "cannot start a: LIVE in the configured environment",
        code=6,
        arguments=(),
        toml="[exporter.a]\ncommand = 'sleep 1'\nport = 9112\nenv = { LIVE = '1' }",
    ),
)
