"""A supervisor out of descriptors: it ends whom it has to, and goes on once there are some."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from stack import child, is_gone
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack import Stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit and /proc")


def list_open(pid: int) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}


def is_open(pid: int, number: int) -> bool:
    return number in list_open(pid)


@contextlib.contextmanager
def exhausted(stack: Stack, pid: int) -> Iterator[None]:
    """Let the supervisor open nothing more.

    It may have no more than it has open; what is free below that is taken by clients who wait.
    """

    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # More than once: some are open for a moment, or not, whenever it looks around.
    last = max(Counter(max(list_open(pid)) for _ in range(50)).items(), key=lambda item: item[1])[0]
    with contextlib.ExitStack() as clients:
        while free := [number for number in range(last) if number not in list_open(pid)]:
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(stack.run_dir / "control.sock"))
            client.sendall(WAIT)
            wait_for(partial(is_open, pid, free[0]))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (last + 1, hard))
        yield
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


WAIT: Final = b'{"v": 1, "verb": "wait", "names": ["last"]}\n'
# It is deaf: the others have ended by then, and so has nobody who waits for it.
LAST = f'[session.last]\ncommand = "{child("hostile_workers", "0")}"\nstop_timeout_seconds = 2'


def read_log(stack: Stack) -> str:
    return (stack.run_dir / "logs" / "supervisor.log").read_text()


def start(stack: Stack, *lines: str) -> int:
    (stack.cwd / "ptsup.toml").write_text("\n".join(lines))
    stack.start()
    pid: int = stack.status()["supervisor"]["pid"]
    return pid


@pytest.mark.parametrize(
    ("adopted", "by"), [(False, "a signal"), (False, "a client"), (True, "a signal")]
)
@pytest.mark.parametrize("crowd", [0, 6])
def test_a_stop_ends_everybody(stack: Stack, crowd: int, by: str, *, adopted: bool) -> None:
    supervisor = start(
        stack,
        "[session.mild]\ncommand = 'sleep 600'",
        f'[session.deaf]\ncommand = "{child("hostile_workers", "3")}"',
        "stop_timeout_seconds = 0.5",
        LAST,
        f'[session.scattered]\ncommand = "{child("hostile_workers", "3", "--escape")}"',
        "stop_timeout_seconds = 0.5",
    )
    for name in ("deaf", "scattered"):
        stack.wait_for_log(name, "ready")
    if adopted:
        os.kill(supervisor, signal.SIGKILL)
        wait_for(partial(is_gone, supervisor))
        stack.start()
        supervisor = stack.status()["supervisor"]["pid"]
    everybody = {process.pid for process in stack.processes()}
    assert len(everybody) >= 4
    with exhausted(stack, supervisor), contextlib.ExitStack() as clients:
        for _ in range(crowd):  # what is kept is not for who stays
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(20)
            client.connect(str(stack.run_dir / "control.sock"))
            client.sendall(WAIT)
            assert b"cannot wait: the supervisor is out of descriptors" in client.recv(4096)
        if by == "a signal":
            os.kill(supervisor, signal.SIGTERM)
        else:
            stack.run("stop")
        wait_for(partial(is_gone, supervisor), timeout_seconds=30, what="the supervisor's end")
    assert not [pid for pid in everybody if not is_gone(pid)]
    said = read_log(stack)
    assert "Traceback" not in said
    assert said.count("cannot accept clients") <= 1


def test_who_dies_meanwhile_is_claimed_and_started_again_later(stack: Stack) -> None:
    supervisor = start(
        stack,
        "[session.a]\ncommand = 'sleep 600'\nrestart = 'always'",
        LAST,
    )
    before = stack.session("a")["pid"]
    with exhausted(stack, supervisor):
        psutil.Process(before).kill()
        wait_for(lambda: "a: backoff: cannot" in read_log(stack), what="a start in vain")
    after = stack.wait_for_state("a", "running", timeout=30)
    assert after["pid"] != before
    assert "Traceback" not in read_log(stack)
    stack.run("stop")
    stack.assert_nothing_left()
