"""The keys of ptsup.toml: each is read, checked, documented, and survives every journey."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.config import (
    EXPORTER_POLICY,
    LogLimits,
    Policy,
    Readiness,
    RestartWhen,
    Role,
    SessionSpec,
)
from supervisor.config.documents import build_document, parse_session_document
from supervisor.config.dotenv import parse_dotenv
from supervisor.config.flags import Fallback, Flags, build_config
from supervisor.config.keys import (
    EXPORTER_KEYS,
    SESSION_KEYS,
    SETTINGS,
    build_settings,
    read_settings,
)
from supervisor.config.toml import (
    GATES_KEYS,
    TOP_KEYS,
    FileConfig,
    Unreadable,
    find_env_files,
    parse_toml,
)
from supervisor.config.values import LIMITS
from supervisor.errors import UsageError
from telemetry.mode import Mode

FILE: Final = Path("/desk/ptsup.toml")
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "config.md"
SECRET: Final = "hunter2"


def read(text: str, files: dict[Path, str | Unreadable] | None = None) -> FileConfig:
    return parse_toml(text, FILE, files or {})


def refuse(text: str, files: dict[Path, str | Unreadable] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read(text, files)
    assert caught.value.message.isprintable()
    return caught.value.message.replace(f"{FILE}:", "")


def session(text: str) -> SessionSpec:
    (found,) = read(f"[session.a]\ncommand = 'x'\n{text}").sessions
    return found


# -- docs/config.md names every key, and no other -------------------------------------------------


def find_rows(head: str) -> list[list[str]]:
    """Find the rows of the table with that first heading, without their marks."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = next(
        n
        for n, line in enumerate(lines)
        if line.startswith(f"| {head} |") and lines[n + 1].startswith("|---")
    )
    rows = takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.replace("`", "").strip() for cell in row.split("|")[1:]] for row in rows]


@pytest.mark.parametrize(
    ("head", "known"),
    [
        ("key", {*TOP_KEYS, *(f"gates.{key}" for key in GATES_KEYS)}),
        ("`[session.NAME]`", set(SESSION_KEYS)),
        ("`[exporter.NAME]`", set(EXPORTER_KEYS)),
        ("`ready`", {field.name for field in fields(Readiness)}),
        ("`limits`", set(LIMITS)),
        ("`log`", {field.name for field in fields(LogLimits)}),
    ],
)
def test_the_reference_names_every_key_and_no_other(head: str, known: set[str]) -> None:
    documented = [row[0] for row in find_rows(head)]
    assert len(documented) == len(set(documented))
    assert set(documented) == known


@pytest.mark.parametrize(
    ("head", "policy"), [("`[session.NAME]`", Policy()), ("`[exporter.NAME]`", EXPORTER_POLICY)]
)
def test_the_reference_tells_the_defaults_and_what_restarts(head: str, policy: Policy) -> None:
    for name, _, default, restarts, *_ in find_rows(head):
        if name not in SETTINGS:
            continue
        assert restarts == ("no" if SETTINGS[name].live else "yes"), name
        if SETTINGS[name].of_policy:
            value = getattr(policy, name)
            value = sorted(value) if isinstance(value, frozenset) else value
            assert str(value).removesuffix(".0") == default, name


# -- Values ---------------------------------------------------------------------------------------


def test_every_key_of_a_session_is_read() -> None:
    spec = session(
        """
start_after = []
ready = { port = 8080, timeout_seconds = 5 }
limits = { nofile = 64, core = 0, as = "2G", nproc = "unlimited" }
log = { max_bytes = "1M", backups = 0 }
restart = "always"
success_exit_codes = [0, 3]
stable_seconds = 1
backoff_seconds = 0.25
backoff_limit_seconds = 2
failure_limit = 9
failure_window_seconds = 7
stop_signal = "SIGINT"
stop_timeout_seconds = 3
mode = "A"
port = 9112
"""
    )
    assert spec == SessionSpec(
        name="a",
        command=("x",),
        cwd=FILE.parent,
        mode=Mode.A,
        port=9112,
        ready=Readiness(port=8080, timeout_seconds=5),
        log=LogLimits(max_bytes=1 << 20, backups=0),
        limits={"nofile": 64, "core": 0, "as": 2 << 30, "nproc": None},
        policy=Policy(
            restart=RestartWhen.ALWAYS,
            success_exit_codes=frozenset({0, 3}),
            stable_seconds=1,
            backoff_seconds=0.25,
            backoff_limit_seconds=2,
            failure_limit=9,
            failure_window_seconds=7,
            stop_signal="INT",
            stop_timeout_seconds=3,
            start_timeout_seconds=5,
            start_timeout_limit_seconds=30,
        ),
        planned=True,
    )


def test_the_file_says_for_all_logs_what_none_says_for_its_own() -> None:
    text = """
log = { max_bytes = 1_000_000, backups = 9 }
[session.a]
command = "x"
[session.b]
command = "x"
log = { max_bytes = 0 }
[exporter.e]
command = "x"
port = 9110
[exporter.e.log]
backups = 2
"""
    flags = Flags(sessions=("c=x",), command=("d",))
    fallback = Fallback(port=9111, multiproc_dir=Path("prom_multiproc"))
    config = build_config(flags, read(text), fallback, Path("/desk"))
    found = {spec.name: (spec.log.max_bytes, spec.log.backups) for spec in config.members}
    usual = (1_000_000, 9)
    assert found == {"a": usual, "b": (0, 9), "c": usual, "d": usual, "e": (1_000_000, 2)}
    assert config.log == LogLimits(max_bytes=1_000_000, backups=9)
    plain = build_config(flags, FileConfig(), fallback, Path("/desk"))
    assert {spec.log for spec in plain.members} == {plain.log} == {LogLimits()}


def test_an_exporter_is_restarted_for_ever_and_ready_by_its_port() -> None:
    (spec,) = read("[exporter.ai]\ncommand = 'x y'\nport = 9110").exporters
    assert spec.role is Role.EXPORTER
    assert (spec.port, spec.path, spec.ready) == (
        9110,
        "/metrics",
        Readiness(port=9110, timeout_seconds=30),
    )
    assert (spec.policy.restart, spec.policy.failure_limit) == (RestartWhen.ALWAYS, None)
    assert spec.policy.start_timeout_seconds == 30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("restart = 'sometimes'", "3: session.a.restart: 'sometimes' is not one of"),
        ("stop_signal = 'STOP'", "3: session.a.stop_signal: 'STOP' is not one of TERM"),
        ("stop_signal = 15", "3: session.a.stop_signal: 15 is not one of"),
        ("success_exit_codes = 3", "3: session.a.success_exit_codes: not a list"),
        ("success_exit_codes = []", "3: session.a.success_exit_codes: not a list"),
        ("success_exit_codes = [256]", "3: session.a.success_exit_codes: 256 is not an exit code"),
        ("success_exit_codes = [true]", "3: session.a.success_exit_codes: True is not"),
        ("backoff_seconds = 0", "3: session.a.backoff_seconds: 0 is not"),
        ("failure_limit = 0", "3: session.a.failure_limit: 0 is not a whole number"),
        ("count = 0", "3: session.a.count: 0 is not a number of instances"),
        ("count = 1001", "3: session.a.count: 1001 is not a number of instances"),
        ("start_after = 'b'", "3: session.a.start_after: not a list of names"),
        ("start_after = ['b']", "3: session.a.start_after: there is no 'b'"),
        ("start_after = ['a']", "3: session.a.start_after: they wait for each other: a → a"),
        ("ready = 8080", "3: session.a.ready: not a table"),
        ("ready = {}", "3: session.a.ready: give it one of port and http"),
        ("ready = { port = 1, http = 'x' }", "3: session.a.ready: give it one of port and http"),
        ("ready = { port = 0 }", "3: session.a.ready.port: 0 is not a port"),
        ("ready = { http = 'ftp://x' }", "3: session.a.ready.http: 'ftp://x' is not an address"),
        ("ready = { http = 'http://x:70000' }", "3: session.a.ready.http"),
        ("[session.a.ready]\nport = 1\nafter = 2", "5: session.a.ready.after: unknown key"),
        ("ready = { port = 1, timeout_seconds = 0 }", "3: session.a.ready.timeout_seconds: 0"),
        ("limits = 3", "3: session.a.limits: not a table"),
        ("limits = { files = 3 }", "3: session.a.limits.files: unknown key"),
        ("[session.a.limits]\nnofile = -1", "4: session.a.limits.nofile: -1 is not a limit"),
        ("limits = { nofile = '2G' }", "3: session.a.limits.nofile: '2G' is not a limit"),
        ("limits = { as = '2 apples' }", "3: session.a.limits.as: '2 apples' is not a limit"),
        ("log = 3", "3: session.a.log: not a table"),
        ("log = { max_bytes = '2 MB' }", "3: session.a.log.max_bytes: '2 MB' is not the"),
        ("log = { max_bytes = 65535 }", "3: session.a.log.max_bytes: 65535 is not the size"),
        ("log = { backups = -1 }", "3: session.a.log.backups: -1 is not a number of copies"),
        ("mode = 'C'", "3: session.a.mode: 'C' is not one of A, B"),
        ("mode = 'A'", "3: session.a.mode: a session in mode A needs a port of its own"),
        ("port = 9112", "3: session.a.port: only a session in mode A has a port"),
        ("mode = 'A'\nport = 9112\ncount = 2", "5: session.a.count: several instances"),
        ("path = '/'", "3: session.a.path: unknown key"),
        ("env_file = 3", "3: session.a.env_file: 3 is not a text"),
        ("env_file = 'gone'", "3: session.a.env_file: cannot read /desk/gone: it was not"),
        ("[session.A]\ncommand = 'x'", "3: session.A: the name 'A' is taken by line 1: session.a"),
        ("[exporter.a]\ncommand = 'x'\nport = 1", "3: exporter.a: the name 'a' is taken by line 1"),
        ("[exporter.b]\ncommand = 'x'", "3: exporter.b: no port"),
        ("[exporter.b]\nport = 1", "3: exporter.b: no command"),
        ("[exporter.b]\ncommand = 'x'\nport = 1\nmode = 'A'", "6: exporter.b.mode: unknown key"),
        ("[exporter.b]\ncommand = 'x'\nport = 1\npath = 'm'", "6: exporter.b.path: 'm' is not"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_key(text: str, says: str) -> None:
    assert refuse(f"[session.a]\ncommand = 'x'\n{text}").startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("allow_labels = 'x'", "1: allow_labels: not a list"),
        ("allow_labels = ['a-b']", "1: allow_labels: 'a-b' is not a label name"),
        ("allow_labels = ['symbol']", "1: allow_labels: the label 'symbol' can never be allowed"),
        ("audit_interval_seconds = 0", "1: audit_interval_seconds: 0 is less than a second"),
        ("log = 3\n[session.a]\ncommand = 'x'", "1: log: not a table"),
        ("log = { max_bytes = '1K' }", "1: log.max_bytes: '1K' is not the size of a log"),
        ("[session.a]\ncommand = 'x'\nlog = 3", "3: session.a.log: not a table"),
        ("exporter = 3", "1: exporter: not a table"),
        ("port = 0x" + "f" * 9999, "1: port: a huge value is not a port"),
    ],
)
def test_a_wrong_value_for_all_is_refused_too(text: str, says: str) -> None:
    assert refuse(text).startswith(says)


def test_a_line_is_found_past_texts_of_many_lines_and_comments() -> None:
    text = '[session.a]\ncommand = """\nport = 1\n[x]\n""" # port = 3\n# port = 4\nport = 9112\n'
    assert refuse(text).startswith("7: session.a.port")


# -- Several of one, and who waits for whom -------------------------------------------------------


def test_a_count_makes_sessions_of_their_own_and_its_name_means_them_all() -> None:
    found = read(
        """
[session.paper]
command = "x"
count = 2
[session.last]
command = "x"
start_after = ["paper", "paper-1"]
"""
    )
    assert [spec.name for spec in found.sessions] == ["paper-1", "paper-2", "last"]
    assert found.sessions[2].start_after == ("paper-1", "paper-2")


def test_an_instance_may_not_take_the_name_of_another() -> None:
    text = "[session.a-1]\ncommand = 'x'\n[session.a]\ncommand = 'x'\ncount = 1"
    assert refuse(text).startswith("3: session.a: the name 'a-1' is taken by line 1: session.a-1")
    assert "is not a session name" in refuse(f"[session.{'x' * 64}]\ncommand = 'x'\ncount = 1")


def test_a_circle_is_refused_at_its_line() -> None:
    text = "".join(
        f"[session.{name}]\ncommand = 'x'\nstart_after = ['{other}']\n"
        for name, other in ("ab", "bc", "cb")
    )
    assert refuse(text).startswith("6: session.b.start_after: they wait for each other: b → c → b")


def test_a_long_chain_of_waiting_is_no_circle() -> None:
    text = "[session.s0]\ncommand = 'x'\n" + "".join(
        f"[session.s{n}]\ncommand = 'x'\nstart_after = ['s{n - 1}']\n" for n in range(1, 3000)
    )
    assert len(read(text).sessions) == 3000


def test_a_port_belongs_to_one_alone() -> None:
    def build(text: str) -> None:
        fallback = Fallback(port=9111, multiproc_dir=Path("prom_multiproc"))
        build_config(Flags(), read(text), fallback, Path("/desk"))

    legacy = "[session.a]\ncommand = 'x'\nmode = 'A'\nport = 9112\n"
    build(legacy)
    with pytest.raises(UsageError, match=r"toml:2: session.a: port 9112 is that of metricsd"):
        build(f"port = 9112\n{legacy}")
    with pytest.raises(UsageError, match=r"toml:1: session.a: port 9112 is that of b"):
        build(f"{legacy}[exporter.b]\ncommand = 'x'\nport = 9112")


# -- env_file -------------------------------------------------------------------------------------


def test_an_env_file_is_looked_for_beside_the_file_and_env_goes_before_it() -> None:
    text = """
[session.a]
command = "x"
env_file = ["one.env", "/etc/two.env"]
env = { C = "toml" }
"""
    one, two = FILE.parent / "one.env", Path("/etc/two.env")
    assert find_env_files(text, FILE) == {one, two}
    (spec,) = read(text, {one: "A=1\nB=1\nC=1", two: "B=2"}).sessions
    assert spec.env == {"A": "1", "B": "2", "C": "toml"}
    assert refuse(text, {one: "A=1", two: Unreadable("Permission denied")}) == (
        "4: session.a.env_file: cannot read /etc/two.env: Permission denied"
    )


@pytest.mark.parametrize("text", ["[session", "session = 3", "[session.a]\nenv_file = [3]"])
def test_what_is_no_file_name_is_not_looked_for(text: str) -> None:
    assert find_env_files(text, FILE) == set()


def test_an_env_file_is_read_as_a_shell_means_it() -> None:
    text = r"""
# a comment
A=1
export B = two words   # and a comment
C='single # \n'
D="double \"q\" \n \\ $A" # comment
E=
F=a#b
""".replace("\n", "\r\n")
    assert parse_dotenv(f"\ufeff{text}", "x.env") == {
        "A": "1",
        "B": "two words",
        "C": r"single # \n",
        "D": 'double "q" \n \\ $A',
        "E": "",
        "F": "a#b",
    }


@pytest.mark.parametrize(
    "line", [f"{SECRET}", f"A-B={SECRET}", f"A='{SECRET}", f'A="{SECRET}" x', f"A={SECRET}\0"]
)
def test_a_bad_line_is_refused_and_not_shown(line: str) -> None:
    with pytest.raises(UsageError, match=r"^x.env:2: ") as caught:
        parse_dotenv(f"A=1\n{line}", "x.env")
    assert SECRET not in caught.value.message + caught.value.hint


# -- Documents and records ------------------------------------------------------------------------

MANY: Final = session(
    """
ready = { http = "http://127.0.0.1:1/x" }
limits = { nofile = 64, nproc = "unlimited" }
mode = "A"
port = 9112
restart = "always"
success_exit_codes = [1, 2]
failure_limit = 2
stop_signal = "QUIT"
log = { max_bytes = 0 }
"""
)
EXPORTER: Final = read("[exporter.e]\ncommand = 'x'\nport = 9110\npath = '/m'").exporters[0]


@pytest.mark.parametrize("spec", [MANY, EXPORTER])
def test_every_setting_survives_the_journey_as_a_document(spec: SessionSpec) -> None:
    document = json.loads(json.dumps(build_document(spec)))
    assert parse_session_document(document) == replace(spec, planned=False)


def test_what_a_record_says_wrongly_becomes_the_default() -> None:
    settings = json.loads(json.dumps(build_settings(MANY)))
    assert read_settings({**settings, "restart": "never", "limits": 7, "new": 1}) == {
        key: value
        for key, value in read_settings(settings).items()
        if key not in {"restart", "limits"}
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mode": "A"}, "session a.mode: a session in mode A needs a port"),
        ({"ready": {"port": 0}}, "session a.ready.port: 0 is not a port"),
        ({"role": "metricsd"}, "session a: neither a session nor an exporter"),
        ({"role": "exporter"}, "exporter a: no port"),
        ({"limits": {"x": 1}}, "session a.limits.x: unknown key"),
    ],
)
def test_a_document_is_checked_like_a_file(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_session_document({"name": "a", "command": ["x"], "cwd": "/", **changes})
    assert caught.value.message.startswith(says)
