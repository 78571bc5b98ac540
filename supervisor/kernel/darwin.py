"""macOS: no subreaper, and before Python 3.13 no waitid; kqueue and ps stand in.

Never run by the project's own tests, which need a Linux machine; kept as small as it can be.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import supervisor.kernel
from telemetry.processes import read_identity

if TYPE_CHECKING:
    from collections.abc import Collection

assert sys.platform == "darwin"

# Orphans go to launchd: what left its group is found by its nonce alone.
SUBREAPS: Final = False


def become_subreaper() -> None:
    """Do nothing: orphans go to launchd here, and their group is all we have of them."""


@cache
def _exits() -> tuple[select.kqueue, set[int], set[int]]:
    return select.kqueue(), set(), set()


def peek(pid: int) -> supervisor.kernel.Exit | None:
    """Look whether our child is dead, leaving the zombie; None while it lives.

    NOTE_EXIT says that it died, not how: the reap does.
    """
    queue, watched, dead = _exits()
    if pid not in watched:
        note = select.kevent(
            pid,
            filter=select.KQ_FILTER_PROC,
            flags=select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
            fflags=select.KQ_NOTE_EXIT,
        )
        try:
            queue.control([note], 0, 0)
        except ProcessLookupError:  # a zombie already
            return supervisor.kernel.Exit(None)
        watched.add(pid)
    for event in queue.control(None, 64, 0):
        dead.add(event.ident)
    if pid not in dead:
        return None
    watched.discard(pid)
    dead.discard(pid)
    return supervisor.kernel.Exit(None)


def find_children() -> set[int]:
    """List nobody: without a subreaper our children are the ones we started."""
    return set()


def find_members(groups: Collection[int]) -> dict[int, set[int]]:
    """List who lives (zombies do not) in each of these process groups, in one pass."""
    members: defaultdict[int, set[int]] = defaultdict(set)
    if not groups:
        return members
    for line in _ps("-axo", "pid=,pgid=,stat=").splitlines():
        pid, group, state = line.split()[:3]
        if int(group) in groups and not state.startswith("Z"):
            members[int(group)].add(int(pid))
    return members


def find_offspring(ancestors: Collection[int]) -> dict[int, set[int]]:
    """List nobody: who is found here is found by its nonce, which its offspring has too."""
    return {ancestor: set() for ancestor in ancestors}


def signal_process(pid: int, identity: str, number: int) -> None:
    """Signal a process that is not our child, if it still is the one of this identity."""
    with contextlib.suppress(ProcessLookupError):
        if read_identity(pid) == identity:
            os.kill(pid, number)


@dataclass(slots=True)
class ExitWatch:
    """Sees one process end that is not our child; `fileno` is readable from then on."""

    pid: int
    _identity: str
    _queue: select.kqueue
    _exited: bool = False

    def fileno(self) -> int:
        """Give the descriptor to wait for: a kqueue is one."""
        return self._queue.fileno()

    def has_exited(self) -> bool:
        """Whether it is dead."""
        self._exited = self._exited or bool(self._queue.control(None, 1, 0))
        return self._exited

    def pins(self) -> bool:
        """Whether the process still has its pid; a zombie is not told from another one."""
        return read_identity(self.pid) == self._identity

    def read_exit(self) -> supervisor.kernel.Exit | None:
        """Say nothing: how a process ended is told here to its parent alone."""
        return None

    def signal_group(self, number: int) -> bool:  # noqa: ARG002
        """Do nothing: a group has only its number here, which may be another's by now."""
        return False

    def close(self) -> None:
        """Watch no more."""
        self._queue.close()


def watch_exit(pid: int, identity: str) -> ExitWatch | None:
    """Watch a process that is not our child; None when it is dead, or another by now."""
    queue = select.kqueue()
    note = select.kevent(
        pid,
        filter=select.KQ_FILTER_PROC,
        flags=select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
        fflags=select.KQ_NOTE_EXIT,
    )
    with contextlib.suppress(ProcessLookupError):
        queue.control([note], 0, 0)
        # Looked at while it is watched: if it is the one now, its end will be noted.
        if read_identity(pid) == identity:
            return ExitWatch(pid, identity, queue)
    queue.close()
    return None


def _ps(*arguments: str) -> str:
    done = subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False)
    return done.stdout
