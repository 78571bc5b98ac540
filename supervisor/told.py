"""Whom a signal was sent to, of all that a session became: everybody once, a newborn twice.

Each is signalled as the process it was found to be. While its leader lives, that one ends its
own; whoever is left when it is dead, and has not been told, is told too.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

# What comes between a fork and the first step of the child is thrown away by Python
# (PyOS_AfterFork_Child), which is long on a busy machine: a newborn is told once more, later.
AGAIN_SECONDS: Final = 1.0


@dataclass(slots=True)
class Told:
    """One signal to the processes of one session, each known by pid and identity."""

    number: int
    _first: dict[int, str]  # who was there when it was sent to all
    _late: dict[int, tuple[str, float]] = field(default_factory=dict)  # and since when again

    def find_due(self, living: Mapping[int, str], now: float) -> dict[int, str]:
        """Find whom of these to tell now, and take it that they are told."""
        due = {pid: it for pid, it in living.items() if self._is_due(pid, it, now)}
        for pid, identity in due.items():
            known = self._late.get(pid, ("", 0.0))[0] == identity
            if known:  # no third time
                self._first[pid] = identity
            self._late[pid] = identity, now + AGAIN_SECONDS
        return due

    def _is_due(self, pid: int, identity: str, now: float) -> bool:
        if self._first.get(pid) == identity:
            return False
        known, again_at = self._late.get(pid, ("", 0.0))
        # A kill is heard by whoever there is, and told once.
        return known != identity or (now >= again_at and self.number != signal.SIGKILL)


def tell(processes: Mapping[int, str], number: int) -> None:
    """Signal each of these, known by pid and identity, that still is who it was."""
    for pid, identity in processes.items():
        with contextlib.suppress(PermissionError):
            kernel.signal_process(pid, identity, number)
            if number != signal.SIGKILL:  # one that is stopped would not notice
                kernel.signal_process(pid, identity, signal.SIGCONT)
