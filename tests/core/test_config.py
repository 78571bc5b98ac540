"""What the operator asked for, and how it is refused: in one line that says where."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from supervisor.config import METRICSD_POLICY, Config, Policy, RestartWhen, SessionSpec
from supervisor.config.documents import build_document, parse_session_document
from supervisor.config.flags import (
    Fallback,
    Flags,
    build_config,
    find_free_name,
    find_script_stem,
    parse_session_flag,
)
from supervisor.config.toml import FileConfig, find_mark, parse_toml
from supervisor.config.values import (
    check_unique,
    parse_env,
    parse_port,
    parse_seconds,
    parse_session_name,
)
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

CWD: Final = Path("/desk")
FILE: Final = Path("/etc/desk/ptsup.toml")
FALLBACK: Final = Fallback(port=9111, multiproc_dir=Path(".ops_local/prom_multiproc"))
SECRET: Final = "hunter2"


def build(flags: Flags | None = None, toml: str = "", fallback: Fallback = FALLBACK) -> Config:
    return build_config(flags or Flags(), parse_toml(toml, FILE), fallback, CWD)


def refuse(call: Callable[[], object]) -> str:
    """Be refused, with exit code 2 and in one line; give back the message."""
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.exit_code == 2
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.message.isprintable()
    return caught.value.message


# -- Precedence: flag, then TOML, then environment, then default --------------------------------


def test_a_flag_goes_before_the_file_and_the_file_before_the_environment() -> None:
    toml = 'port = 9200\nhost = "127.0.0.2"\nmultiproc_dir = "b/prom_multiproc"'
    flags = Flags(port=9300, host="127.0.0.3", multiproc_dir="c/prom_multiproc")
    environment = Fallback(port=9150, multiproc_dir=Path("a/prom_multiproc"))
    found = [
        (config.port, config.host, str(config.multiproc_dir))
        for config in (
            build(),
            build(fallback=environment),
            build(toml=toml, fallback=environment),
            build(flags, toml, environment),
        )
    ]
    assert found == [
        (9111, "0.0.0.0", "/desk/.ops_local/prom_multiproc"),
        (9150, "0.0.0.0", "/desk/a/prom_multiproc"),
        (9200, "127.0.0.2", "/etc/desk/b/prom_multiproc"),
        (9300, "127.0.0.3", "/desk/c/prom_multiproc"),
    ]


def test_it_is_known_what_a_flag_or_the_file_gave() -> None:
    assert build().given == frozenset()
    assert build(Flags(port=1)).given == {"port"}
    assert build(Flags(multiproc_dir="p"), 'host = "::1"').given == {"host", "multiproc_dir"}


@pytest.mark.parametrize("flags", [Flags(host=""), Flags(host=" "), Flags(multiproc_dir="")])
def test_an_empty_flag_is_refused(flags: Flags) -> None:
    assert refuse(lambda: build(flags)).endswith(": it is empty")


def test_the_shard_directory_is_absolute_wherever_it_comes_from() -> None:
    absolute = "/srv/prom_multiproc"
    for config in (
        build(Flags(multiproc_dir=absolute)),
        build(toml=f'multiproc_dir = "{absolute}"'),
        build(fallback=Fallback(port=1, multiproc_dir=Path(absolute))),
    ):
        assert config.multiproc_dir == Path(absolute)


def test_the_restart_flag_is_for_the_sessions_of_the_command_line() -> None:
    config = build(
        Flags(sessions=("a=true",), command=("true",), restart="always"),
        '[session.b]\ncommand = "true"\n[session.c]\ncommand = "true"\nrestart = "on-failure"',
    )
    assert {session.name: session.policy.restart for session in config.sessions} == {
        "b": RestartWhen.NO,
        "c": RestartWhen.ON_FAILURE,
        "a": RestartWhen.ALWAYS,
        "true": RestartWhen.ALWAYS,
    }


def test_sessions_of_the_command_line_are_not_restarted_unless_asked() -> None:
    (session,) = build(Flags(sessions=("a=true",))).sessions
    assert session == SessionSpec(name="a", command=("true",), cwd=CWD, policy=Policy())
    assert session.policy.restart is RestartWhen.NO
    assert session.policy.stop_timeout_seconds == 75


def test_metricsd_is_kept_for_ever_and_never_waits_longer_than_a_second() -> None:
    assert METRICSD_POLICY.restart is RestartWhen.ALWAYS
    assert METRICSD_POLICY.failure_limit is None
    assert METRICSD_POLICY.backoff_limit_seconds <= 1.0


# -- Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "9", "paper", "Paper-2", "a.b_c-d", "a" * 64, "json", "con"])
def test_a_good_name_is_taken_as_it_is(name: str) -> None:
    assert parse_session_name(name, "-s") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", " a", "a ", "a\n", "\ta", "a\x1b[2J", "a\0b", "a\u202eb"),
        *("../x", "..", ".", ".hidden", "a/b", "/etc/passwd", "a\\b", "-s", "_a"),
        *("ä", "п", "a=b", "a:b", "a*", "a" * 65, "a" * 300, None, 7, ["a"], b"a"),
    ],
)
def test_a_hostile_name_is_refused_without_reaching_the_terminal(name: object) -> None:
    message = refuse(lambda: parse_session_name(name, "-s"))
    assert message.startswith("-s: ")
    assert len(message) < 120


@pytest.mark.parametrize("name", ["metricsd", "METRICSD", "Metricsd", "supervisor", "SuperVisor"])
def test_our_own_names_are_reserved_whatever_the_case(name: str) -> None:
    assert repr(name) in refuse(lambda: parse_session_name(name, "-s"))


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("paper", "Paper"), ("pa", "p" + "a")])
def test_two_sessions_of_one_name_are_refused(first: str, second: str) -> None:
    assert repr(second) in refuse(
        lambda: build(Flags(sessions=(f"{first}=true", f"{second}=false")))
    )
    toml = f'[session.{first}]\ncommand = "true"'
    assert repr(second) in refuse(lambda: build(Flags(sessions=(f"{second}=true",)), toml))


def test_the_same_session_twice_is_refused() -> None:
    session = SessionSpec(name="a", command=("true",), cwd=CWD)
    check_unique([session])
    refuse(lambda: check_unique([session, session]))


# -- -s NAME=COMMAND ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("paper=true", ("true",)),
        ("paper=python a.py --x=1", ("python", "a.py", "--x=1")),
        ("paper=  python   a.py ", ("python", "a.py")),
        ("paper=python 'my file.py' \"b c\" d\\ e", ("python", "my file.py", "b c", "d e")),
        ("paper=echo $HOME `id` ; rm *", ("echo", "$HOME", "`id`", ";", "rm", "*")),
        ("paper=env A=b true", ("env", "A=b", "true")),
        ("paper=a '' b", ("a", "", "b")),
        ("paper=# x", ("#", "x")),
    ],
)
def test_a_command_is_split_like_a_shell_would_and_nothing_is_expanded(
    text: str, command: tuple[str, ...]
) -> None:
    session = parse_session_flag(text, CWD, Policy())
    assert (session.name, session.command, session.cwd) == ("paper", command, CWD)


@pytest.mark.parametrize(
    "text",
    [
        *("", "paper", "=true", "paper=", "paper=  ", "paper=''"),
        *("a b=true", "../x=true", "metricsd=x", "\x1b[2J=true", "a\nb=true"),
    ],
)
def test_a_malformed_session_flag_is_refused(text: str) -> None:
    assert refuse(lambda: parse_session_flag(text, CWD, Policy())).startswith("-s")


def test_a_session_flag_without_a_name_says_how_it_is_written() -> None:
    message = refuse(lambda: parse_session_flag("paper", CWD, Policy()))
    assert message == "-s 'paper': not of the form NAME=COMMAND"


def test_an_open_quotation_is_refused_without_showing_the_command() -> None:
    text = f"paper=env PASSWORD={SECRET} python 'a.py"
    message = refuse(lambda: parse_session_flag(text, CWD, Policy()))
    assert message == "-s paper: cannot split the command: No closing quotation"


# -- What stands after -- -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python x.py", "x"),
        ("python examples/shadow_session.py --speed 9", "shadow_session"),
        ("/usr/bin/python3 -u -X dev /srv/paper.py other.py", "paper"),
        ("python -m a.b", "b"),
        ("python -m paper --config x.py", "paper"),
        ("python x.py -m 5", "x"),
        ("python -m", "python"),
        ("python -c pass", "python"),
        ("./x", "x"),
        ("./shadow_session.py", "shadow_session"),
        ("./run.sh x.py", "run"),
        ("bash run.sh", "run"),
        ("env A=1 python x.py", "x"),
        ("/opt/desk/bin/desk-paper --watch", "desk-paper"),
        ("./.hidden", "hidden"),
        ("./-x", "x"),
        ("python sitzung_übung.py", "sitzung__bung"),
        ("python прибыль.py", "session"),
        ("...", "session"),
        ("x" * 300, "x" * 60),
        ("python metricsd.py", "metricsd-2"),
        ("./Supervisor", "Supervisor-2"),
    ],
)
def test_a_command_is_named_after_its_script(command: str, name: str) -> None:
    (session,) = build(Flags(command=tuple(command.split()))).sessions
    assert session.name == parse_session_name(session.name, "COMMAND") == name
    assert session.command == tuple(command.split())


def test_a_name_that_is_taken_gets_a_number() -> None:
    flags = Flags(sessions=("x=true", "x-2=true"), command=("python", "x.py"))
    assert [session.name for session in build(flags).sessions] == ["x", "x-2", "x-3"]


def test_a_name_that_is_taken_in_another_case_gets_a_number_too() -> None:
    flags = Flags(sessions=("Paper=true",), command=("python", "paper.py"))
    assert [session.name for session in build(flags).sessions] == ["Paper", "paper-2"]


def test_a_long_name_stays_a_name_with_its_number() -> None:
    stem = find_script_stem(["x" * 300])
    taken = frozenset([stem, *(f"{stem}-{number}" for number in range(2, 1000))])
    parse_session_name(find_free_name(stem, taken - {f"{stem}-999"}), "COMMAND")


def test_only_the_name_ptsup_gives_keeps_clear_of_sessions_that_are_there_already() -> None:
    flags = Flags(sessions=("x=true",), command=("python", "X.py"))
    config = build_config(flags, FileConfig(), FALLBACK, CWD, frozenset({"x", "x-2"}))
    assert [session.name for session in config.sessions] == ["x", "X-3"]


@pytest.mark.parametrize("command", [("",), ("", "x.py"), ("a\0b",)])
def test_an_empty_or_impossible_command_is_refused(command: tuple[str, ...]) -> None:
    assert refuse(lambda: build(Flags(command=command))).startswith("COMMAND: ")


# -- Single values ------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [1, 9111, 65535])
def test_a_port_is_taken(port: int) -> None:
    assert build(Flags(port=port)).port == parse_port(port, "port") == port


@pytest.mark.parametrize("port", [0, -1, 65536, True, 9111.0, "9111", None, [9111], 10**400])
def test_what_is_no_port_is_refused(port: object) -> None:
    assert refuse(lambda: parse_port(port, "port")).startswith("port: ")


def test_a_port_flag_of_zero_is_refused_and_not_taken_for_none() -> None:
    assert refuse(lambda: build(Flags(port=0))) == "--port: 0 is not a port"


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), (75, 75.0), (0.25, 0.25)])
def test_a_duration_is_taken(value: float, seconds: float) -> None:
    assert parse_seconds(value, "x") == seconds


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), True, "75", None, 10**400])
def test_what_is_no_duration_is_refused(value: object) -> None:
    assert refuse(lambda: parse_seconds(value, "x")).startswith("x: ")


def test_an_unknown_restart_flag_names_the_choices() -> None:
    message = refuse(lambda: build(Flags(restart="sometimes", sessions=("a=true",))))
    assert message == "--restart: 'sometimes' is not one of no, on-failure, always"


# -- TOML ---------------------------------------------------------------------------------------

GOOD: Final = """
port = 9200
host = "127.0.0.1"
multiproc_dir = "var/prom_multiproc"

[session.paper]  # the main one
command = ["python", "examples/shadow_session.py", "--strategy", "ma_crossover"]
restart = "on-failure"
stop_timeout_seconds = 90
cwd = "desk"

[session.paper.env]
PEAK_TRADE_SERVICE = "paper"

[session.shadow]
command = "python 'my shadow.py'"
"""


def test_a_whole_file_is_read() -> None:
    found = parse_toml(GOOD, FILE)
    assert found.places == {
        "host": f"{FILE}:3: host",
        "port": f"{FILE}:2: port",
        "multiproc_dir": f"{FILE}:4: multiproc_dir",
        "session": f"{FILE}:6: session",
        "paper": f"{FILE}:6: session.paper",
        "shadow": f"{FILE}:15: session.shadow",
    }
    assert replace(found, places={}) == FileConfig(
        path=FILE,
        given=frozenset({"host", "port", "multiproc_dir", "session"}),
        marks={FILE: find_mark(GOOD.encode())},
        host="127.0.0.1",
        port=9200,
        multiproc_dir=Path("/etc/desk/var/prom_multiproc"),
        sessions=(
            SessionSpec(
                name="paper",
                command=("python", "examples/shadow_session.py", "--strategy", "ma_crossover"),
                cwd=Path("/etc/desk/desk"),
                env={"PEAK_TRADE_SERVICE": "paper"},
                policy=Policy(restart=RestartWhen.ON_FAILURE, stop_timeout_seconds=90),
                planned=True,
            ),
            SessionSpec(
                name="shadow",
                command=("python", "my shadow.py"),
                cwd=Path("/etc/desk"),
                planned=True,
            ),
        ),
    )


def test_an_empty_file_says_nothing() -> None:
    assert parse_toml("", FILE) == FileConfig(path=FILE, marks={FILE: 0})


@pytest.mark.parametrize(
    "key", ["audit_interval_seconds", "missing_shard_seconds", "stale_values_seconds"]
)
def test_what_the_audit_goes_by_can_be_set(key: str) -> None:
    found = parse_toml(f"{key} = 2.5", FILE)
    assert getattr(found, key) == 2.5
    assert getattr(build_config(Flags(), found, FALLBACK, FILE.parent), key) == 2.5
    assert getattr(build_config(Flags(), FileConfig(), FALLBACK, FILE.parent), key) >= 15
    with pytest.raises(UsageError, match="is less than a second"):
        parse_toml(f"{key} = 0.9", FILE)


@pytest.mark.parametrize("key", ["host", "multiproc_dir"])
def test_an_empty_place_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"1: {key}: it is empty"):
        parse_toml(f'{key} = ""', FILE)


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("port = \n", 1),
        ("port = \nhost = 'x'\n[session]\n", 1),
        ("port = 9111\nport", 2),
        ("port = 9111\n\n[session.paper\n", 3),
        ('[session.a]\ncommand = "x', 2),
        ("port = 9111\nport = 9112\n", 2),
        ("a = 2020-13-40", 1),
    ],
)
def test_a_syntax_error_names_its_line(toml: str, line: int) -> None:
    assert refuse(lambda: parse_toml(toml, FILE)).startswith(f"{FILE}:{line}: ")


@pytest.mark.parametrize("toml", ["port = " + "1" * 5000, "a = " + "[" * 5000])
def test_a_file_that_the_parser_chokes_on_is_refused_too(toml: str) -> None:
    assert refuse(lambda: parse_toml(toml, FILE)).startswith(f"{FILE}:")


@pytest.mark.parametrize(
    ("toml", "line", "key"),
    [
        ("prot = 9111", 1, "prot"),
        ("port = 9111\n\n  hots = 1", 3, "hots"),
        ("'quoted' = 1", 1, "quoted"),
        ("[sesion.paper]\nx = 1", 1, "sesion"),
        ("[session.a]\ncommand = 'x'\ncomand = 'x'", 3, "session.a.comand"),
        ("[session.a] # [x]\ncommand = 'x'\ncomand = 'x'", 3, "session.a.comand"),
        ("[ session . 'a' ]\ncommand = 'x'\ncomand = 'x'", 3, "session.a.comand"),
        ("[session.b]\ncommand='x'\n[session.a]\ncommand = 'x'\nb = 1", 5, "session.a.b"),
        ("[session.a]\ncommand = 'x'\n[session.a.envs]\nX = '1'", 3, "session.a.envs"),
        ("session.a.command = 'x'\nsession.a.b = 'x'", 2, "session.a.b"),
        ("[session]\na.command = 'x'\na.b = 1", 3, "session.a.b"),
        ("port = 1\n[session]\na = {command = 'x', b = 1}", 3, "session.a.b"),
        ("[session.a]\ncommand = [\n  'x',\n  'y=1',\n]\nb = 1", 6, "session.a.b"),
    ],
)
def test_an_unknown_key_is_named_with_its_line(toml: str, line: int, key: str) -> None:
    assert refuse(lambda: parse_toml(toml, FILE)) == f"{FILE}:{line}: {key}: unknown key"


def test_a_key_written_so_that_its_line_cannot_be_found_is_named_all_the_same() -> None:
    message = refuse(lambda: parse_toml('"pr\\u006ft" = 1', FILE))
    assert message == f"{FILE}: prot: unknown key"


def test_a_session_that_is_no_table_is_refused_as_such() -> None:
    message = refuse(lambda: parse_toml("[session]\na = 'command'", FILE))
    assert message == f"{FILE}:2: session.a: not a table"


@pytest.mark.parametrize(
    ("toml", "line", "key"),
    [
        ("port = '9111'", 1, "port"),
        ("port = true", 1, "port"),
        ("port = 0", 1, "port"),
        ("\nhost = 7", 2, "host"),
        ('host = "a\\u0000b"', 1, "host"),
        ("multiproc_dir = ['x']", 1, "multiproc_dir"),
        ('multiproc_dir = "a\\u0000b"', 1, "multiproc_dir"),
        ("session = 1", 1, "session"),
        ("[[session]]\nx = 1", 1, "session"),
        ("[session]\na = 'x'", 2, "session.a"),
        ("[session.a]\nrestart = 'no'", 1, "session.a"),
        ("[session.a]\ncommand = 7", 2, "session.a.command"),
        ("[session.a]\ncommand = ['x', 7]", 2, "session.a.command"),
        ("[session.a]\ncommand = []", 2, "session.a.command"),
        ("[session.a]\ncommand = ''", 2, "session.a.command"),
        ("[session.a]\ncommand = ['']", 2, "session.a.command"),
        ('[session.a]\ncommand = ["a\\u0000"]', 2, "session.a.command"),
        ("[session.a]\ncommand = 'x'\nrestart = 'never'", 3, "session.a.restart"),
        ("[session.a]\ncommand = 'x'\nrestart = true", 3, "session.a.restart"),
        ("[session.a]\ncommand = 'x'\nrestart = ['no']", 3, "session.a.restart"),
        *(
            (f"[session.a]\ncommand = 'x'\nstop_timeout_seconds = {value}", 3, "session.a.stop_")
            for value in ("'75'", "-1", "inf", "nan", "true", "1" + "0" * 400)
        ),
        ("[session.a]\ncommand = 'x'\ncwd = 7", 3, "session.a.cwd"),
        ('[session.a]\ncommand = "x"\ncwd = "a\\u0000"', 3, "session.a.cwd"),
        ("[session.a]\ncommand = 'x'\nenv = 7", 3, "session.a.env"),
        ("[session.a]\ncommand = 'x'\n[session.a.env]\nX = 7", 4, "session.a.env.X"),
        ("[session.a]\ncommand = 'x'\n[session.a.env]\n'A=B' = 'x'", 3, "session.a.env"),
        ("[session.metricsd]\ncommand = 'x'", 1, "session.metricsd"),
        ("[session.'a b']\ncommand = 'x'", 1, "session.a b"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_key(toml: str, line: int, key: str) -> None:
    message = refuse(lambda: parse_toml(toml, FILE))
    assert message.startswith(f"{FILE}:{line}: {key}")


@pytest.mark.parametrize("name", ["../x", "a" * 300, ".x"])
def test_a_hostile_session_name_in_a_file_is_refused(name: str) -> None:
    message = refuse(lambda: parse_toml(f"[session.'{name}']\ncommand = 'x'", FILE))
    assert "is not a session name" in message


def test_relative_directories_in_a_file_start_at_its_folder() -> None:
    file = parse_toml('multiproc_dir = "p"\n[session.a]\ncommand = "x"\ncwd = "../b"', FILE)
    assert file.multiproc_dir == Path("/etc/desk/p")
    assert file.sessions[0].cwd == Path("/etc/desk/../b")
    file = parse_toml('multiproc_dir = "/p"\n[session.a]\ncommand = "x"\ncwd = "/b"', FILE)
    assert file.multiproc_dir == Path("/p")
    assert file.sessions[0].cwd == Path("/b")


# -- Secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [f'["{SECRET}"]', f'{{ x = "{SECRET}" }}', f'"{SECRET}\\u0000"'],
)
def test_a_secret_in_the_environment_is_in_no_message(value: str) -> None:
    toml = f"[session.a]\ncommand = 'x'\nenv = {{ API_SECRET = {value} }}"
    message = refuse(lambda: parse_toml(toml, FILE))
    assert "API_SECRET" in message
    assert SECRET not in message


@pytest.mark.parametrize("value", [[SECRET], f"{SECRET}\0"])
def test_a_secret_handed_over_is_in_no_message(value: object) -> None:
    document = {"name": "a", "command": ["x"], "cwd": "/", "env": {"API_SECRET": value}}
    message = refuse(lambda: parse_session_document(document))
    assert "API_SECRET" in message
    assert SECRET not in message


# -- The document of a session ------------------------------------------------------------------


@pytest.mark.parametrize(
    "session",
    [
        SessionSpec(name="a", command=("true",), cwd=Path("/")),
        SessionSpec(
            name="B-2.x_y",
            command=("python", "", "a b", "ä\n", "\udcff"),
            cwd=Path("/srv/\udcff"),
            env={"A": "", "B": "x=y\n", "C": "\udcff", "LIVE": "0"},
            policy=Policy(restart=RestartWhen.ALWAYS, stop_timeout_seconds=0.5),
        ),
    ],
)
def test_a_session_survives_the_journey_as_a_document(session: SessionSpec) -> None:
    document = json.loads(json.dumps(build_document(session)))
    assert parse_session_document(document) == session


MALFORMED: Final[dict[str, tuple[object, ...]]] = {
    "name": (None, "", "../x", "metricsd", "a" * 65),
    "command": (None, [], [""], ["a", 1], ["a\0"], {}, 7),
    "cwd": (None, "", "relative", 7, "/a\0b"),
    "env": (None, [], {"": "x"}, {"a=b": "x"}, {"a\0": "x"}, {"a": 1}),
    "restart": ("never", None, ["no"]),
    "stop_timeout_seconds": ("75", -1, None),
}


@pytest.mark.parametrize("key", MALFORMED)
def test_a_malformed_document_is_refused(key: str) -> None:
    document: dict[str, object] = {"name": "a", "command": ["x"], "cwd": "/"}
    parse_session_document(document)
    for value in MALFORMED[key]:
        malformed = {**document, key: value}
        refuse(partial(parse_session_document, malformed))


def test_a_document_may_leave_out_what_has_a_default() -> None:
    session = parse_session_document({"name": "a", "command": ["x"], "cwd": "/"})
    assert session == SessionSpec(name="a", command=("x",), cwd=Path("/"))


@pytest.mark.parametrize("document", [None, [], "a", 7])
def test_what_is_no_object_is_no_session(document: object) -> None:
    refuse(lambda: parse_session_document(document))


def test_an_environment_is_names_and_strings() -> None:
    assert parse_env({"A": "1", "b.c": ""}, "env") == {"A": "1", "b.c": ""}
