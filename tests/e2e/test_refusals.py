"""What is refused, is refused before anything starts: one line, a hint, an exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bad_input import ROWS, Row
from stack import SHADOW, find_free_port
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


def test_a_false_like_variable_starts(stack: Stack) -> None:
    for number, value in enumerate(("", "0", "false", "NO", "Off")):  # but the first, handed over
        stack.start("-s", f"a{number}=sleep 600", PEAK_TRADE_LIVE_ENABLED=value)
        assert stack.session(f"a{number}")["state"] == "running"


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


def test_a_directory_of_somebody_elses_files_is_no_run_dir(stack: Stack) -> None:
    project = stack.cwd / "project"
    (project / "state" / "deep").mkdir(parents=True)
    project.chmod(0o755)
    (project / "state" / "mine.txt").write_text("precious")
    done = stack.start("--run-dir", "project", "-s", "a=sleep 600", code=2)
    assert "state/deep in it is not ptsup's" in done.stderr
    assert (project / "state" / "mine.txt").read_text() == "precious"
    assert project.stat().st_mode & 0o777 == 0o755
    done = stack.start("--run-dir", ".", "-s", "a=sleep 600", code=2)
    assert "project in it is not ptsup's" in done.stderr


def test_a_shard_directory_in_use_is_refused_and_loses_nothing(stack: Stack) -> None:
    stack.start("-s", f"a={SHADOW} --speed 400")
    stack.wait_for_state("a", "exited", timeout=30)
    totals = stack.counters()
    pid = stack.status()["supervisor"]["pid"]
    other = str(find_free_port())
    done = stack.run("start", "-d", "--run-dir", "other", "--port", other, code=7)
    assert f"in use by pid {pid}" in done.stderr
    alone = subprocess.run(
        [sys.executable, "-m", "telemetry.metricsd", "--port", other],
        cwd=stack.cwd,
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert alone.returncode == 7
    assert f"in use by pid {pid}" in alone.stderr
    assert stack.counters() == totals


def test_a_hand_over_says_what_it_would_otherwise_ignore(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    other = str(find_free_port())
    done = stack.run("start", "-d", "--port", other, "-s", "b=sleep 600", code=2)
    assert f"has port {stack.port}, not {other}" in done.stderr
    (stack.cwd / "b.toml").write_text(f"port = {other}\n[session.b]\ncommand = 'sleep 600'\n")
    done = stack.run("start", "-d", "-f", "b.toml", code=2)
    assert f"has port {stack.port}, not {other}" in done.stderr
    done = stack.start("-s", "b=sleep 600", BINANCE_API_KEY="k")
    assert "'BINANCE_API_KEY' is left out" in done.stderr


def test_the_name_after_the_dashes_is_unique_in_the_running_stack_too(stack: Stack) -> None:
    for _ in range(2):
        stack.start("--", "sleep", "600")
    assert [s["name"] for s in stack.status()["sessions"]] == ["sleep", "sleep-2"]


def test_a_hand_over_says_of_each_setting_of_its_file_that_it_is_left_as_it_is(
    stack: Stack,
) -> None:
    file, other = stack.cwd / "ptsup.toml", stack.cwd / "other.toml"
    file.write_text("allow_labels = ['floor']\n")
    stack.start("-f", str(file))
    other.write_text(
        "allow_labels = ['desk']\naudit_interval_seconds = 15\nstale_values_seconds = 9\n"
        "log = { backups = 1 }\n[gates]\ndeny = ['ACME_GO']\n[session.a]\ncommand = 'sleep 600'\n"
    )
    said = stack.run("start", "-d", "-f", str(other))
    left = "is left as the supervisor that runs has it;"
    assert said.stderr.splitlines() == [
        f"ptsup: {other}: {key} {left} write it into {file}, then `ptsup reload` takes it over"
        for key in ("allow_labels", "stale_values_seconds", "log")
    ]
    file.write_text(other.read_text().replace("session.a", "session.b"))
    said = stack.run("start", "-d", "-f", str(file))
    assert f"{file}: log {left} `ptsup reload` takes it over\n" in said.stderr
    # What it refuses besides counts from now on, for everybody, and after a crash too.
    assert "ACME_GO" in stack.start("-s", "c=env ACME_GO=1 sleep 600", code=6).stderr
    own = json.loads((stack.run_dir / "state" / "supervisor.json").read_text())
    assert own["denied"] == ["ACME_GO"]
    # And is refused while one is there that it forbids.
    stack.start("-s", "c=env ACME_ON=1 sleep 600")
    other.write_text("[gates]\ndeny = ['ACME_ON']\n[session.d]\ncommand = 'sleep 600'\n")
    refused = stack.run("start", "-d", "-f", str(other), code=6)
    assert refused.stderr.startswith("ptsup: cannot start: c is there already: ACME_ON")
    assert [s["name"] for s in stack.status()["sessions"]] == ["a", "b", "c"]


def test_exit_when_done_counts_for_a_hand_over_too(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    stack.run("start", "--exit-when-done", "-s", "good=true")
    stack.run("start", "--exit-when-done", "-s", "bad=sh -c 'exit 3'", code=1)
    # As its own supervisor would judge it, and without waiting for what never ends.
    (stack.cwd / "more.toml").write_text(
        "[session.three]\ncommand = \"sh -c 'exit 3'\"\nsuccess_exit_codes = [0, 3]\n"
        f"[exporter.page]\nport = {find_free_port()}\n"
        "command = 'sh -c \"sleep 600\"'\n"
    )
    stack.run("start", "--exit-when-done", "-f", "more.toml")
    assert stack.session("a")["state"] == "running"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stop", "a", "--drain", "1"], "go with stopping everything"),
        (["stop", "a", "--keep-shards"], "go with stopping everything"),
        (["stop", "--timeout", "soon"], "'soon' is not a number of seconds"),
        (["stop", "--timeout", "-1"], "'-1' is not a number of seconds, 0 or more"),
        (["status", "--watch", "--json"], "do not go together"),
    ],
)
def test_what_would_be_ignored_is_refused(stack: Stack, arguments: list[str], words: str) -> None:
    assert words in stack.run(*arguments, code=2).stderr


def test_ptsup_alone_prints_its_help_as_it_is(stack: Stack) -> None:
    done = stack.run(code=2)
    assert done.stderr.startswith("Usage: ptsup")
    assert "Start metricsd and sessions." in done.stderr


def test_no_logs_is_exit_3(stack: Stack) -> None:
    assert "no logs" in stack.run("logs", code=3).stderr


def test_a_secret_in_a_command_is_neither_shown_nor_written_down(stack: Stack) -> None:
    stack.start(
        "-s",
        "a=env MY_TOKEN=hushhush99 sleep 600",
        "-s",
        "b=sh -c 'sleep 600' --password hushhush99",
    )
    document = stack.run("status", "--json").stdout
    assert "hushhush99" not in document
    assert "MY_TOKEN=***" in document
    for path in stack.run_dir.rglob("*.*"):
        if path.is_file():
            assert "hushhush99" not in path.read_text()
