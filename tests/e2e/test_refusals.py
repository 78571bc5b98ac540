"""What is refused, is refused before anything starts: one line, a hint, an exit code."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from bad_input import ROWS, Row
from supervisor.rundir import RunDir

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from stack import Stack


def assert_refused(stack: Stack, done: CompletedProcess[str], *words: str) -> None:
    """One line that says why, perhaps a hint; nothing runs and nothing was made."""
    message, *hint = done.stderr.splitlines()
    assert message.startswith("ptsup: ")
    assert len(hint) <= 1
    assert all(line.startswith("  hint: ") for line in hint)
    for word in words:
        assert word in done.stderr
    assert not stack.processes()
    assert not RunDir(stack.run_dir).read_states()


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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_a_mistake_is_refused(stack: Stack, row: Row) -> None:
    (stack.cwd / "prom_multiproc").write_text("a file")
    if row.toml:
        (stack.cwd / "ptsup.toml").write_text(row.toml)
    done = stack.run("start", "-d", *row.arguments, code=row.code, **row.environ)
    assert_refused(stack, done, row.says)


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
