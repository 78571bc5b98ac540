"""Linux: subreaper, peek without reaping, groups and files from /proc, signals by pidfd.

A pidfd stands for one process for ever: what it says and hears cannot be another's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import supervisor.kernel
from telemetry.processes import is_dead, read_identity, read_stat

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterable, Iterator

# Orphans of our descendants become our own children.
SUBREAPS: Final = True
# Of a selector the descriptor can be polled: it tells whether any of those it waits for is ready.
POLLS_SELECTORS: Final = True
_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_PROC: Final = Path("/proc")
_BLOCK_BYTES: Final = 1 << 16

# pidfd_send_signal(2), Linux 6.9: to everybody in the group that the process leads or led.
_PIDFD_SIGNAL_PROCESS_GROUP: Final = 1 << 2
# <linux/pidfd.h>, Linux 6.15: how a process ended, once it is reaped, to whoever holds a pidfd.
# struct pidfd_info: u64 mask, u64 cgroup, eleven u32 of ids, s32 exit_code.
_PIDFD_INFO: Final = struct.Struct("QQ11Ii")
_PIDFD_GET_INFO: Final = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT: Final = 1 << 3
# Where /proc/PID/stat has the exit status, from its third field on.
_STAT_START, _STAT_EXIT = 19, 49

# <linux/falloc.h>
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
# <sys/inotify.h>: something was written, closed after that, or its mode changed; was moved, made or
# removed, also the watched itself; told once.
_CHANGES: Final = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_ONCE: Final = 0x80000000


def become_subreaper() -> None:
    """Make orphans of our descendants our own children, so that they too can be pinned."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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


def has_dead_child() -> bool:
    """Whether any child of ours is dead and not reaped yet; it stays so."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def find_children() -> set[int]:
    """List our own children, zombies included.

    Once it was asked, it needs no further descriptor: what ends and reaps goes on without any.
    """
    own = os.getpid()
    listing = _open_children(own)
    if listing is None:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid, fields in _scan() if int(fields[1]) == own}
    children = b""
    while block := os.pread(listing, _BLOCK_BYTES, len(children)):
        children += block
    return set(map(int, children.split()))


@cache
def _open_children(own: int) -> int | None:
    # By pid: what a fork inherits lists the children of its parent.
    try:
        return os.open(f"/proc/self/task/{own}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def find_members(groups: Collection[int], known: Collection[int] = ()) -> dict[int, set[int]]:
    """List who lives (zombies do not) in each of these process groups, in one pass.

    Without those who are `known`, which are not looked at.
    """
    members: defaultdict[int, set[int]] = defaultdict(set)
    for pid in _list_pids() if groups else ():
        if pid in known:
            continue
        try:
            group = os.getpgid(pid)  # a twentieth of the time that its stat takes
        except OSError:  # gone meanwhile
            continue
        if group in groups and (fields := read_stat(pid)) is not None and not is_dead(fields):
            members[group].add(pid)
    return members


def find_offspring(ancestors: Collection[int]) -> dict[int, set[int]]:
    """List who descends from each of these, in one pass."""
    children: defaultdict[int, set[int]] = defaultdict(set)
    for pid, fields in _scan():
        if not is_dead(fields):
            children[int(fields[1])].add(pid)
    found: dict[int, set[int]] = {}
    for ancestor in ancestors:
        offspring, todo = set[int](), [ancestor]
        while todo:
            fresh = children.get(todo.pop(), set()) - offspring
            offspring |= fresh
            todo += fresh
        found[ancestor] = offspring
    return found


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


@dataclass(slots=True)
class ExitWatch:
    """Sees one process end that is not our child; `fileno` is readable from then on."""

    pid: int
    _identity: str
    _descriptor: int
    _poll: select.poll = field(init=False)

    def __post_init__(self) -> None:
        """Be ready to ask."""
        self._poll = _poll(self._descriptor)

    def fileno(self) -> int:
        """Give the descriptor to wait for."""
        return self._descriptor

    def has_exited(self) -> bool:
        """Whether it is dead, reaped or not."""
        return bool(self._poll.poll(0))

    def pins(self) -> bool:
        """Whether the process still has its pid, if only as a zombie."""
        return _read_start(self.pid) == self._identity.partition("@")[0]

    def read_exit(self) -> supervisor.kernel.Exit | None:
        """Read how it ended; None while (or where) the kernel does not tell."""
        stat = read_stat(self.pid)
        if stat is not None and stat[0] == "Z" and self.pins() and len(stat) > _STAT_EXIT:
            return supervisor.kernel.Exit(os.waitstatus_to_exitcode(int(stat[_STAT_EXIT])))
        info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
        try:
            fcntl.ioctl(self._descriptor, _PIDFD_GET_INFO, info)
        except OSError:  # an older kernel, or not reaped yet
            return None
        mask, *_, status = _PIDFD_INFO.unpack(info)
        if not mask & _PIDFD_INFO_EXIT:
            return None
        return supervisor.kernel.Exit(os.waitstatus_to_exitcode(status))

    def signal_group(self, number: int) -> bool:
        """Signal the whole group it leads or led; False where the kernel cannot do that."""
        try:
            signal.pidfd_send_signal(self._descriptor, number, None, _PIDFD_SIGNAL_PROCESS_GROUP)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left, or a member changed its user
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)


def watch_exit(pid: int, identity: str) -> ExitWatch | None:
    """Watch a process that is not our child; None when it is dead, or another by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    watch = ExitWatch(pid, identity, descriptor)
    pins = False
    try:
        # Looked at with the pidfd open: from here on it cannot become another process.
        pins = watch.pins()
    finally:
        if not pins:
            watch.close()
    return watch if pins else None


def read_listener_pid(connection: socket.socket) -> int:
    """Read the pid of who listened where a unix socket is connected to (SO_PEERCRED).

    0 when it has none here: it lives outside this pid namespace.
    """
    credentials = connection.getsockopt(1, 17, struct.calcsize("3i"))  # pid, uid, gid; socket(7)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def list_own_descriptors() -> list[int]:
    """List what this process has open, and the descriptor it is listed with."""
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208


def find_socket_holders(sockets: Collection[str], pids: Iterable[int]) -> dict[str, int]:
    """Find which of these processes hold which of these sockets, as far as they show it."""
    wanted = {f"socket:[{inode}]": inode for inode in sockets}
    found: dict[str, int] = {}
    for pid in pids if wanted else ():
        for link, _ in _list_descriptors(pid):
            if (inode := wanted.get(link)) is not None:
                found.setdefault(inode, pid)
    return found


def list_open_files(pid: int) -> list[tuple[str, int]]:
    """List the files a process has open, by path and inode, removed ones too.

    The path is where the file is or was; nothing of a process that does not show its files.
    """
    found = []
    for link, path in _list_descriptors(pid):
        if link.startswith("/"):
            with contextlib.suppress(OSError):
                # Through the kernel's own reference: exact for renamed and removed files.
                found.append((link.removesuffix(" (deleted)"), os.stat(path).st_ino))  # noqa: PTH116
    return found


def _list_descriptors(pid: int) -> Iterator[tuple[str, str]]:
    # Names, and no Path for each: it takes twice as long, for everybody at a look.
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):  # noqa: PTH208
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                yield os.readlink(path), path  # noqa: PTH115


def _call(name: str, *arguments: object) -> int:
    """Call a function of libc that Python has no name for; raises OSError."""
    import ctypes  # noqa: PLC0415 - only the supervisor needs it, and it is slow to import

    # An int would be cut to 32 bits, which an offset in a file is not.
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    result: int = function(*wide)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# -- Files: holes, and being told of writes ------------------------------------------------------


def punch_hole(descriptor: int, start: int, end: int) -> None:
    """Give a file's blocks from `start` to `end` back; all of that reads as zeros. Raises OSError.

    No offset moves, and no writer notices: it waits for the inode's lock, as for another writer.
    """
    mode = _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE
    _call("fallocate", descriptor, mode, start, end - start)


def find_data(descriptor: int, position: int) -> int:
    """Find where the next block begins that is no hole; the file's end when there is none."""
    return _seek(descriptor, position, os.SEEK_DATA)


def find_hole(descriptor: int, position: int) -> int:
    """Find where the next hole begins; the file's end is one."""
    return _seek(descriptor, position, os.SEEK_HOLE)


def _seek(descriptor: int, position: int, what: int) -> int:
    try:
        return os.lseek(descriptor, position, what)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return max(position, os.fstat(descriptor).st_size)


@dataclass(slots=True)
class ChangeWatch:
    """Fires once when something changes where it was armed: `fileno` becomes readable.

    It does not say what. Until it is armed again it costs neither the writers nor us anything.
    """

    _descriptor: int
    _poll: select.poll = field(init=False)

    def __post_init__(self) -> None:
        """Be ready to ask."""
        self._poll = _poll(self._descriptor)

    def fileno(self) -> int:
        """Give the descriptor to wait for."""
        return self._descriptor

    def has_fired(self) -> bool:
        """Whether it has fired since it was armed."""
        # To read and find nothing raises, which takes fifteen times as long.
        return bool(self._poll.poll(0))

    def arm(self, *paths: Path) -> bool:
        """Tell of the next change of one of these, or in it; False where that cannot be done."""
        try:
            self._drain()
            for path in paths:
                _call("inotify_add_watch", self._descriptor, os.fsencode(path), _CHANGES | _ONCE)
        except OSError:
            return False
        return True

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, 1 << 16):
                pass

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)


def watch_changes() -> ChangeWatch | None:
    """Make a watch, not armed yet; None when the user's inotify instances are used up."""
    try:
        return ChangeWatch(_call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return None


def _poll(descriptor: int) -> select.poll:
    poll = select.poll()  # select() ends at descriptor 1024
    poll.register(descriptor, select.POLLIN)
    return poll


def _read_start(pid: int) -> str | None:
    stat = read_stat(pid)
    return None if stat is None else stat[_STAT_START]


def _scan() -> Iterator[tuple[int, list[str]]]:
    for pid in _list_pids():
        if (fields := read_stat(pid)) is not None:
            yield pid, fields


def _list_pids() -> Iterator[int]:
    # Names, and not a Path for each process.
    return (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208
