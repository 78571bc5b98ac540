"""macOS: no subreaper, and before Python 3.13 no waitid; kqueue, ps and lsof stand in.

Never run by the project's own tests, which need a Linux machine; kept as small as it can be.
"""

from __future__ import annotations

import contextlib
import errno
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
    import socket
    from collections.abc import Collection, Iterable
    from pathlib import Path

assert sys.platform == "darwin"

# Orphans go to launchd: what left its group is found by its nonce alone.
SUBREAPS: Final = False
# A kqueue may be such a descriptor; nobody has tried.
POLLS_SELECTORS: Final = False


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


def has_dead_child() -> bool:
    """Whether any child of ours may be dead: there is no cheap way to know."""
    return True


def find_children() -> set[int]:
    """List nobody: without a subreaper our children are the ones we started."""
    return set()


def find_members(groups: Collection[int], known: Collection[int] = ()) -> dict[int, set[int]]:
    """List who lives (zombies do not) in each of these process groups, in one pass.

    Without those who are `known`.
    """
    members: defaultdict[int, set[int]] = defaultdict(set)
    if not groups:
        return members
    for line in _ps("-axo", "pid=,pgid=,stat=").splitlines():
        pid, group, state = line.split()[:3]
        if int(group) in groups and int(pid) not in known and not state.startswith("Z"):
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


def read_listener_pid(connection: socket.socket) -> int:
    """Read the pid of who listened where a unix socket is connected to (LOCAL_PEERPID)."""
    return connection.getsockopt(0, 2)


def list_listening() -> dict[str, tuple[str, int]]:
    """List the TCP sockets that are listened on here, as far as this user may see them.

    By what stands for each, which begins with the pid of who holds it: host and port.
    """
    found = {}
    pid = ""
    for line in _lsof("-nP", "-iTCP", "-sTCP:LISTEN", "-Fpn").splitlines():
        if line.startswith("p"):
            pid = line[1:]
        elif line.startswith("n"):
            host, _, port = line[1:].rpartition(":")
            found[f"{pid} {line[1:]}"] = host.strip("[]").replace("*", "0.0.0.0"), int(port)  # noqa: S104
    return found


def list_own_descriptors() -> list[int]:
    """List what this process has open, and the descriptor it is listed with."""
    return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208


def find_socket_holders(sockets: Collection[str], pids: Iterable[int]) -> dict[str, int]:
    """Find which of these processes hold which of these sockets."""
    holders = {name: int(name.partition(" ")[0]) for name in sockets}
    among = set(pids)
    return {name: pid for name, pid in holders.items() if pid in among}


def list_open_files(pid: int) -> list[tuple[str, int]]:
    """List the files a process has open, by path and inode, removed ones too."""
    found, inode = [], 0
    for line in _lsof("-p", str(pid), "-Ffin").splitlines():
        match line[:1]:
            case "f":
                inode = 0
            case "i":
                inode = int(line[1:])
            case "n" if inode:
                found.append((line[1:], inode))
            case _:
                pass
    return found


def _lsof(*arguments: str) -> str:
    done = subprocess.run(
        ["/usr/sbin/lsof", *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout


def punch_hole(descriptor: int, start: int, end: int) -> None:  # noqa: ARG001
    """Refuse: logs are not rotated here. F_PUNCHHOLE would have to be tried on a real machine."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def find_data(descriptor: int, position: int) -> int:  # noqa: ARG001
    """Find no hole: nobody punches one here."""
    return position


def find_hole(descriptor: int, position: int) -> int:
    """Find the file's end: nobody punches a hole here."""
    return max(position, os.fstat(descriptor).st_size)


class ChangeWatch:
    """Never made: who wants to know of changes looks, or asks watchfiles."""

    def fileno(self) -> int:
        """Give the descriptor to wait for."""
        raise NotImplementedError

    def has_fired(self) -> bool:
        """Whether it has fired since it was armed."""
        return True

    def arm(self, *paths: Path) -> bool:  # noqa: ARG002
        """Tell of the next change of one of these, or in it; False where that cannot be done."""
        return False

    def close(self) -> None:
        """Watch no more."""


def watch_changes() -> ChangeWatch | None:
    """Make none."""
    return None


def _ps(*arguments: str) -> str:
    done = subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False)
    return done.stdout
