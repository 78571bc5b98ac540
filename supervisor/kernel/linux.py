"""Linux: subreaper, peek without reaping, process groups from /proc, signals by pidfd."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import supervisor.kernel
from telemetry.processes import is_dead, read_identity, read_stat

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_PROC: Final = Path("/proc")


def become_subreaper() -> None:
    """Make orphans of our descendants our own children, so that they too can be pinned."""
    import ctypes  # noqa: PLC0415 - once, and only in the supervisor

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def peek(pid: int) -> supervisor.kernel.Exit | None:
    """Look whether our child is dead, leaving the zombie; None while it lives.

    The zombie keeps its pid, and its group's number, from being given to another process.
    """
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # reaped behind our back: its status is lost
        return supervisor.kernel.Exit(None)
    if found is None:
        return None
    exited = found.si_code == os.CLD_EXITED
    return supervisor.kernel.Exit(found.si_status if exited else -found.si_status)


def find_children() -> set[int]:
    """List our own children, zombies included."""
    try:
        text = (_PROC / "self/task" / str(os.getpid()) / "children").read_text()
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid, fields in _scan() if int(fields[1]) == os.getpid()}
    return {int(word) for word in text.split()}


def find_members(groups: Collection[int]) -> dict[int, set[int]]:
    """List who lives (zombies do not) in each of these process groups, in one pass."""
    members: defaultdict[int, set[int]] = defaultdict(set)
    if groups:
        for pid, fields in _scan():
            if int(fields[2]) in groups and not is_dead(fields):
                members[int(fields[2])].add(pid)
    return members


def signal_process(pid: int, identity: str, number: int) -> None:
    """Signal a process that is not our child, if it still is the one of this identity."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Looked at with the pidfd open: from here on it cannot become another process.
        if read_identity(pid) == identity:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def read_peer_uid(connection: socket.socket) -> int:
    """Read the uid of the process at the other end of a unix socket."""
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


def _scan() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir(_PROC):  # noqa: PTH208 - names, not a Path for each process
        if name.isdigit() and (fields := read_stat(int(name))) is not None:
            yield int(name), fields
