"""Strikes metricsd: kills or stops the one that runs, and sees it die."""

from __future__ import annotations

import os
import select
import signal
import time
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


@dataclass(slots=True)
class Target:
    """The metricsd of a stack, whichever incarnation runs, and the deaths of those before."""

    stack: Stack
    log: EventLog
    deaths: list[Death] = field(default_factory=list)

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
            reached = self._wait_for(blow.aim)
            time.sleep(blow.moment_seconds)
            struck_at = self.log.note(
                blow.signal.name, pid, "metricsd", f"#{blow.number}, {reached.value}"
            )
            signal.pidfd_send_signal(descriptor, blow.signal)
            dead = self._wait_for_death(descriptor)
            dead_at = self.log.note("dead", pid, "metricsd", "" if dead else "not even now: killed")
            if not dead:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                raise AssertionError(
                    f"metricsd (pid {pid}) was not replaced within {REPLACED_WITHIN_SECONDS:g} s"
                    f" after {blow.signal.name}"
                )
        except ProcessLookupError:
            dead_at = struck_at = self.log.note("gone", pid, "metricsd", "before it was struck")
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

    def _wait_for(self, aim: Aim) -> Aim:
        """Wait until metricsd is at what is aimed at; give what was reached."""
        retired = self.stack.multiproc_dir / ".retired"
        base, first = retired / "base", _read_inode(retired / "base")
        deadline = time.monotonic() + AIM_SECONDS
        while aim is not Aim.NOTHING and time.monotonic() < deadline:
            match aim:
                case Aim.CLAIM:
                    reached = any(retired.glob("claim-*"))
                case Aim.WRITING:
                    reached = (retired / "base.tmp").exists()
                case Aim.PUBLISHED:
                    reached = _read_inode(base) != first
            if reached:
                return aim
            time.sleep(0.0003)  # what is aimed at lasts for about a millisecond
        return Aim.NOTHING


def _read_inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
