"""The wall clock may jump: nobody is restarted, killed early or late, or taken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import pytest

from stack import CHILDREN, SHADOW, child
from supervisor.client import ask_running
from supervisor.control import Request
from supervisor.rundir import RunDir
from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

HOUR_SECONDS: Final = 3600
TELLS_TIME: Final = (
    f"{sys.executable} -uc 'import time\nwhile True: print(time.time()); time.sleep(0.1)'"
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="moved_clock.c is for Linux"),
    pytest.mark.needs_compiler,
]


class MovedClock:
    """The time of day that everybody in a stack is told, ptsup and sessions alike."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._offset = stack.cwd / "offset"
        library = stack.cwd / "moved_clock.so"
        source = CHILDREN / "moved_clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        stack.env |= {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(self._offset)}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        beside = self._offset.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.replace(self._offset)

    def read(self) -> list[int]:
        """Read by how many hours the session `clock` was off, each time it told the time."""
        return [
            round((float(word) - time.time()) / HOUR_SECONDS)
            for word in self.stack.read_log("clock").split()
        ]

    def wait_until_told(self, hours: int) -> None:
        """Wait until the session has lived for a second and a half in the new time."""
        before = len(self.read())
        wait_for(lambda: len(self.read()) > before + 15, what="the session to tell the time")
        assert self.read()[-1] == hours


def describe(stack: Stack) -> list[dict[str, Any]]:
    status = stack.status()
    assert status["drift"] == []
    kept = ("name", "pid", "incarnation", "state", "restarts")
    return [{key: s.get(key) for key in kept} for s in (status["metricsd"], *status["sessions"])]


def test_whatever_the_wall_clock_does_all_goes_on_as_it_was(stack: Stack) -> None:
    clock = MovedClock(stack)
    ledger = stack.cwd / "ledger"
    deaf = child("ignores_term")
    stack.start(
        *("-s", f"clock={TELLS_TIME}", "-s", f"deaf={deaf}"),
        *("-s", f"counts={SHADOW} --loop --speed 50 --ledger {ledger}"),
    )
    stack.wait_for_log("deaf", "deaf")
    before = describe(stack)
    for hours in (1, -1):
        clock.jump(hours * HOUR_SECONDS)
        clock.wait_until_told(hours)
        assert describe(stack) == before
        assert sum(stack.counters().values()) > 0

    # A kill that is due is neither early nor late.
    times: list[float] = []

    def stop() -> None:
        began = time.monotonic()
        request = Request("stop", {"names": ["deaf"], "timeout_seconds": 2})
        ask_running(RunDir(stack.run_dir), request)
        times.append(time.monotonic() - began)

    stopping = Thread(target=stop)
    stopping.start()
    stack.wait_for_state("deaf", "stopping")
    clock.jump(HOUR_SECONDS)
    stopping.join()
    assert 2 <= times[0] <= 3
    assert stack.session("deaf")["returncode"] == -signal.SIGKILL

    # Nor is a process another one because it seems to have been started at another time.
    before = describe(stack)
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not is_alive(supervisor), what="its end")
    clock.jump(-HOUR_SECONDS)
    clock.wait_until_told(-1)
    stack.start()
    assert describe(stack) == before
    stack.run("stop")
    stack.assert_nothing_left()
