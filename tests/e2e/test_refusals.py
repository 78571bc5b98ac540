"""What is refused, is refused before anything starts: one line, a hint, an exit code."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from stack import Stack

LONG = "x" * 300


def assert_refused(stack: Stack, done: CompletedProcess[str], *words: str) -> None:
    """One line that says why, perhaps a hint; nothing runs and nothing was made."""
    message, *hint = done.stderr.splitlines()
    assert message.startswith("ptsup: ")
    assert len(hint) <= 1
    assert all(line.startswith("  hint: ") for line in hint)
    for word in words:
        assert word in done.stderr
    assert not stack.processes()
    stack.run("status", code=3)


LIVE = [
    ("PEAK_TRADE_LIVE_ENABLED", "True"),
    ("PEAK_TRADE_LIVE_ARMED", "YES"),
    ("PEAK_TRADE_LIVE_MODE", "on"),
    ("PEAK_TRADE_ENABLE_LIVE_TRADING", "1"),
    ("PEAK_TRADE_LIVE_AUTHORIZED", "enabled"),
    ("peak_trade_live_orders", "true"),
    ("PT_LIVE_ANYTHING", "1"),
    ("PT_ARMED", "1"),
    ("PT_CONFIRM_TOKEN", "s3cret"),
    ("LIVE", "yes"),
]


@pytest.mark.parametrize(("name", "value"), LIVE)
def test_a_live_variable_starts_no_session(stack: Stack, name: str, value: str) -> None:
    done = stack.start("-s", "a=sleep 600", code=6, **{name: value})
    assert_refused(stack, done, name)
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("python x.py --live", "--live"),
        ("python x.py --mode live", "--mode"),
        ("python x.py --mode=bounded_pilot", "--mode"),
        ("env PEAK_TRADE_LIVE_ENABLED=True sleep 600", "PEAK_TRADE_LIVE_ENABLED"),
        ("sh -c 'PEAK_TRADE_LIVE_ENABLED=on sleep 600'", "PEAK_TRADE_LIVE_ENABLED"),
        ("sh -c 'export LIVE=1; sleep 600'", "LIVE"),
        ("env KRAKEN_API_SECRET=hush sleep 600", "KRAKEN_API_SECRET"),
    ],
)
def test_a_live_argument_starts_no_session(stack: Stack, command: str, word: str) -> None:
    assert_refused(stack, stack.start("-s", f"a={command}", code=6), word)


def test_a_live_variable_in_the_config_starts_no_session(stack: Stack) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        '[session.good]\ncommand = "sleep 600"\n'
        '[session.bad]\ncommand = "sleep 600"\nenv = { PEAK_TRADE_LIVE_ENABLED = "yes" }\n'
    )
    assert_refused(stack, stack.start(code=6), "PEAK_TRADE_LIVE_ENABLED", "bad")


def test_a_handed_over_session_passes_the_gates_first(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    done = stack.start("-s", "b=sleep 600", code=6, PT_ARMED="1")
    assert "PT_ARMED" in done.stderr
    assert [s["name"] for s in stack.status()["sessions"]] == ["a"]


@pytest.mark.parametrize("value", ["", "0", "false", "NO", "Off"])
def test_a_false_like_variable_starts(stack: Stack, value: str) -> None:
    stack.start("-s", "a=sleep 600", PEAK_TRADE_LIVE_ENABLED=value)
    assert stack.session("a")["state"] == "running"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-s", "a=no-such-program-anywhere"], "no-such-program-anywhere"),
        (["-s", "a=./missing.sh"], "./missing.sh"),
        (["-s", "a=/etc/passwd"], "/etc/passwd"),
        (["-s", "a=/tmp"], "/tmp"),
        (["-s", "a="], "empty"),
        (["-s", "a='unclosed"], "quotation"),
        (["-s", "justaname"], "NAME=COMMAND"),
        (["-s", "../x=sleep 1"], "../x"),
        (["-s", " a=sleep 1"], "not a session name"),
        (["-s", f"{LONG}=sleep 1"], "not a session name"),
        (["-s", "a\x1b[31m=sleep 1"], "not a session name"),
        (["-s", "metricsd=sleep 1"], "metricsd"),
        (["-s", "a=sleep 1", "-s", "a=sleep 1"], "two sessions"),
        (["-f", "missing.toml"], "missing.toml"),
        (["--restart", "sometimes", "--", "sleep", "1"], "sometimes"),
        (["--nonsense"], "--nonsense"),
        (["--multiproc-dir", "somewhere", "--", "sleep", "1"], "somewhere"),
        (["--multiproc-dir", "/", "--", "sleep", "1"], "root directory"),
        (["--host", "203.0.113.7", "--", "sleep", "1"], "203.0.113.7"),
    ],
)
def test_bad_input_is_refused(stack: Stack, arguments: list[str], word: str) -> None:
    assert_refused(stack, stack.start(*arguments, code=2), word)


@pytest.mark.parametrize("port", ["0", "70000", "-1", "http"])
def test_a_bad_port_is_refused(stack: Stack, port: str) -> None:
    assert_refused(
        stack, stack.run("start", "-d", "--port", port, "--", "sleep", "1", code=2), port
    )


def test_a_bad_port_in_the_environment_is_named(stack: Stack) -> None:
    done = stack.run("start", "-d", code=2, PEAK_TRADE_METRICSD_PORT="abc")
    assert_refused(stack, done, "PEAK_TRADE_METRICSD_PORT")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("\nport = ", ["ptsup.toml:2: Invalid value"]),
        ("prot = 9111", ["ptsup.toml:1: prot", "unknown key"]),
        ("[session.a]\ncommand = 'sleep 1'\nrestrat = 'no'", ["ptsup.toml:3", "session.a.restrat"]),
        ("[session.a]\nrestart = 'no'", ["session.a", "no command"]),
        ("[session.a]\ncommand = 7", ["ptsup.toml:2", "session.a.command"]),
        ("port = 70000", ["ptsup.toml:1: port", "70000"]),
        ("[session.'../x']\ncommand = 'sleep 1'", ["../x"]),
        ("[session.a]\ncommand = 'sleep 1'\n[session.a.env]\nX = 3", ["session.a.env.X"]),
        ("session = 3", ["ptsup.toml:1: session"]),
    ],
)
def test_a_bad_file_is_refused_with_line_and_key(stack: Stack, toml: str, words: list[str]) -> None:
    (stack.cwd / "ptsup.toml").write_text(toml)
    assert_refused(stack, stack.start(code=2), *words)


def test_a_taken_port_is_refused_with_its_holder_and_clears_nothing(stack: Stack) -> None:
    stack.multiproc_dir.mkdir(parents=True)
    (stack.multiproc_dir / "counter_1.db").write_bytes(b"")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", stack.port))
        holder.listen()
        import os

        done = stack.start("-s", "a=sleep 600", code=7)
        assert_refused(stack, done, f"pid {os.getpid()}", str(stack.port))
    assert stack.shards == ["counter_1.db"]


def test_a_run_dir_that_is_a_file_is_refused(stack: Stack) -> None:
    (stack.cwd / "file").write_text("")
    done = stack.start("--run-dir", "file", "-s", "a=sleep 1", code=2)
    assert "cannot use the run directory" in done.stderr


@pytest.mark.parametrize("command", [["stop"], ["stop", "a"], ["restart", "a"], ["status"]])
def test_nothing_runs_is_exit_3(stack: Stack, command: list[str]) -> None:
    assert "nothing runs" in stack.run(*command, code=3).stderr


def test_an_unknown_session_is_refused_by_name(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    for command in ("stop", "restart", "status", "logs"):
        done = stack.run(command, "nobody", code=2)
        assert "nobody" in done.stderr
    done = stack.start("-s", "a=sleep 1", code=2)
    assert "a session of that name is running" in done.stderr
