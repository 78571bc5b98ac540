"""As process 1 of a container, and as a service: strangers reaped, statuses right, order kept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from pid_namespace import NEEDS_PIDS, UNSHARE
from stack import BIN
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack import Stack

STRANGERS: Final = int(os.environ.get("PTSUP_STRANGERS") or 1000)
# Whatever ends a process: not STOP and CONT, and not what is ignored by default.
HARMLESS: Final = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
STOPPING: Final = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
FATAL: Final = sorted(set(signal.Signals) - HARMLESS - STOPPING)


@contextlib.contextmanager
def process_one(stack: Stack, *arguments: str) -> Iterator[psutil.Process]:
    """Start the supervisor as process 1 of its own pid namespace; give it as seen from here."""
    log = (stack.cwd / "start.log").open("w")
    command = [*UNSHARE, str(BIN / "ptsup"), "start", "--port", str(stack.port), *arguments]
    with (
        log,
        subprocess.Popen(
            command, cwd=stack.cwd, env=stack.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as unshare,
    ):
        try:
            wait_for(
                lambda: stack.run("status", code=None).returncode == 0,
                timeout_seconds=20,
                what="process 1",
            )
            (supervisor,) = psutil.Process(unshare.pid).children()
            assert stack.status()["supervisor"]["pid"] == 1
            yield supervisor
        finally:
            for process in psutil.Process(unshare.pid).children():
                process.kill()  # and with it its whole namespace


def find_zombies(supervisor: psutil.Process) -> list[int]:
    return [p.pid for p in supervisor.children() if p.status() == psutil.STATUS_ZOMBIE]


def check_ends(stack: Stack) -> None:
    """Run a session for each exit code and fatal signal, and compare how each is reported."""
    codes = {f"c{code}": (f"exit {code}", code) for code in range(256)}
    # As the shell's child: no shell blocks or catches it on the way.
    signals = {f"s{int(s)}": (f"kill -{int(s)} $$", -s) for s in FATAL}
    ends = {**codes, **signals}
    names = list(ends)
    for first in range(0, len(names), 64):
        some = names[first : first + 64]
        flags = [word for n in some for word in ("-s", f"{n}=/bin/sh -c '{ends[n][0]}'")]
        stack.run("start", "-d", *flags)
    wait_for(
        lambda: all(s["state"] == "exited" for s in stack.status()["sessions"]),
        timeout_seconds=60,
        what="the end of all",
    )
    found = {s["name"]: s["returncode"] for s in stack.status()["sessions"]}
    assert found == {name: returncode for name, (_, returncode) in ends.items()}


def test_every_exit_code_and_fatal_signal_is_reported_as_it_was(stack: Stack) -> None:
    stack.start()
    check_ends(stack)


@NEEDS_PIDS
def test_as_process_1_too(stack: Stack) -> None:
    with process_one(stack):
        check_ends(stack)


@NEEDS_PIDS
@pytest.mark.timeout(180)
def test_process_1_reaps_strangers_and_takes_no_childs_status(stack: Stack) -> None:
    # Each stranger is orphaned at once, and ends with a status that is no session's.
    orphans = f"i=0; while [ $i -lt {STRANGERS // 4} ]; do (sh -c 'exit 9' &) ; i=$((i+1)); done"
    with process_one(stack) as supervisor:
        flags = []
        for n in range(4):
            flags += ["-s", f'breeds{n}=/bin/sh -c "{orphans}; exit {40 + n}"']
        stack.run("start", "-d", *flags, "-s", "steady=sleep 600")
        for n in range(4):
            ended = stack.wait_for_state(f"breeds{n}", "exited", timeout=90)
            assert ended["exit"] == str(40 + n)
        wait_for(lambda: not find_zombies(supervisor), what="no zombie to be left")
        assert stack.session("steady")["state"] == "running"


@NEEDS_PIDS
def test_term_from_outside_stops_process_1_in_order(stack: Stack) -> None:
    trap = (
        "trap 'echo stopping; sleep 0.3; echo stopped; exit 0' TERM; "
        "echo set; while :; do sleep 0.05; done"
    )
    with process_one(stack, "-s", f'a=/bin/sh -c "{trap}"') as supervisor:
        # It is running from its spawn on, when there is no trap yet.
        stack.wait_for_log("a", "set\n")
        supervisor.send_signal(signal.SIGTERM)
        wait_for(lambda: not supervisor.is_running(), timeout_seconds=20, what="its end")
    words = stack.read_log("a").split()
    assert [word for word in words if word.startswith("stop")] == ["stopping", "stopped"]
    said = (stack.cwd / "start.log").read_text()
    assert said.index("a: stopped (exit 0)") < said.index("metricsd: stopped")
    stack.assert_nothing_left()


# -- As a service ---------------------------------------------------------------------------------


def test_it_is_ready_when_all_is_up_fed_while_it_lives_and_tells_of_its_stop(stack: Stack) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(stack.cwd / "notify"))
        manager.settimeout(15)
        notify = {"NOTIFY_SOCKET": str(stack.cwd / "notify"), "WATCHDOG_USEC": "500000"}
        with stack.popen("start", "--port", str(stack.port), "-s", "a=sleep 600", **notify) as run:
            told = [manager.recv(64)]
            while told[-1] != b"READY=1":
                told.append(manager.recv(64))
            assert set(told[:-1]) <= {b"WATCHDOG=1"}
            assert stack.session("a")["state"] == "running"
            environ = psutil.Process(stack.session("a")["pid"]).environ()
            assert not environ.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
            began = time.monotonic()
            assert {manager.recv(64) for _ in range(4)} == {b"WATCHDOG=1"}
            assert time.monotonic() - began < 3
            run.send_signal(signal.SIGTERM)
            while told[-1] != b"STOPPING=1":
                told.append(manager.recv(64))
            run.communicate(timeout=20)
            assert run.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the file is the plan on any, kill is enough")
def test_a_service_started_again_adopts_and_keeps_down_who_was_stopped(stack: Stack) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        f"port = {stack.port}\n"
        + "".join(f'[session.{n}]\ncommand = ["sleep", "600"]\n' for n in "abc")
    )
    stack.run("start", "-d")
    stack.run("stop", "b")
    before = stack.status()
    for pid in (before["supervisor"]["pid"], stack.session("c")["pid"]):
        os.kill(pid, signal.SIGKILL)
    said = stack.run("start", "-d")
    assert "b was stopped and stays so" in said.stderr
    states = {s["name"]: s for s in stack.status()["sessions"]}
    assert states["a"]["pid"] == before["sessions"][0]["pid"]
    assert states["b"]["state"] == "stopped"
    assert stack.wait_for_state("c", "running")["pid"] != before["sessions"][2]["pid"]
    # After a reboot nobody lives: all that the file names is started.
    # Its supervisor first, or that would start another metricsd meanwhile.
    os.kill(stack.status()["supervisor"]["pid"], signal.SIGKILL)
    for process in stack.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not stack.processes(), what="the end of all")
    stack.run("start", "-d")
    assert [s["state"] for s in stack.status()["sessions"]] == ["running"] * 3
