"""Strikes metricsd: kills or stops the one that runs, and sees it die."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.events import Death, EventLog
from chaos.plan import Aim, Blow
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

# A hung one is to be replaced within 3 seconds; that is held elsewhere, on a quieter machine.
REPLACED_WITHIN_SECONDS = 15.0
# What is aimed at may not come; then the blow falls anyway.
AIM_SECONDS = 1.5
STRIKER = Path(__file__).parent / "striker.py"


@dataclass(slots=True)
class Target:
    """The metricsd of a stack, whichever incarnation runs, and the deaths of those before."""

    stack: Stack
    log: EventLog
    deaths: list[Death] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)  # what metricsd was at, how often

    def find(self) -> tuple[int, int]:
        """Find the one that runs: its pid and a pidfd of it."""
        found = wait_for(self._look, timeout_seconds=30, what="a metricsd that runs")
        assert found is not None
        return found

    def _look(self) -> tuple[int, int] | None:
        pid = self.stack.status()["metricsd"]["pid"]
        if pid is None:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # Looked at with the pidfd open: it cannot become another process any more.
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            command = b""
        if b"telemetry.metricsd" in command and bytes(self.stack.multiproc_dir) in command:
            return pid, descriptor
        os.close(descriptor)
        return None

    def strike(self, blow: Blow) -> Death:
        """Strike, and wait until it is dead; one that was stopped must be killed for us."""
        pid, descriptor = self.find()
        try:
            struck_at, reached = self._send(blow, descriptor)
            self.log.note(blow.signal.name, pid, "metricsd", f"#{blow.number}, {reached}")
            self.reached[reached] += 1
            dead = self._wait_for_death(descriptor)
            dead_at = self.log.note("dead", pid, "metricsd", "" if dead else "not even now: killed")
            if not dead:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                raise AssertionError(
                    f"metricsd (pid {pid}) was not replaced within {REPLACED_WITHIN_SECONDS:g} s"
                    f" after {blow.signal.name}"
                )
        finally:
            os.close(descriptor)
        # One that was stopped has been killed by somebody else, a moment ago.
        lived_at = struck_at if blow.signal is signal.SIGKILL else max(struck_at, dead_at - 0.5)
        death = Death(pid, blow.signal.name, struck_at, lived_at, dead_at)
        self.deaths.append(death)
        return death

    def _wait_for_death(self, descriptor: int) -> bool:
        # Not select(): there may be more descriptors than it can take.
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(REPLACED_WITHIN_SECONDS * 1000))

    def _send(self, blow: Blow, descriptor: int) -> tuple[float, str]:
        """Send the signal when the aim is reached; give the moment before, and what was reached."""
        if blow.aim is Aim.NOTHING:
            time.sleep(blow.moment_seconds)
            struck_at = time.monotonic()
            signal.pidfd_send_signal(descriptor, blow.signal)
            return struck_at, blow.aim.value
        words = [str(descriptor), str(int(blow.signal)), str(self.stack.multiproc_dir / ".retired")]
        words += [blow.aim.value, str(blow.moment_seconds), str(AIM_SECONDS)]
        done = subprocess.run(
            [sys.executable, "-S", "-E", STRIKER, *words],
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        moment, _, reached = done.stdout.strip().partition(" ")
        return float(moment), reached
