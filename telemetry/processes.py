"""What the system says of a process: who it is, whether it lives, what it was given, holds, uses.

It only looks. What may not be seen counts as alive and as held: a shard left where it is for
too long costs nothing, one taken from a living process costs its counts.
"""

from __future__ import annotations

import os
import struct
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

_PROC: Final = Path("/proc")
_DEAD: Final = frozenset("ZX")  # zombie, or in its very last moment
_ENVIRON_BYTES: Final = 1 << 15  # most are read at once
# It is gone, or another user's (hidepid).
_NOT_TO_BE_SEEN: Final = (FileNotFoundError, ProcessLookupError, PermissionError)


def is_alive(pid: int) -> bool:
    """Whether a process has this pid; a zombie is dead, one of another user is not."""
    # Twice: one that is reaped at this moment shows as little as another user's.
    return _is_taken(pid) and not _is_zombie(pid) and _is_taken(pid)


def _is_taken(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is there, and another user's
    return True


def read_environment(pid: int) -> dict[str, str]:
    """Read the environment a process had at its start; nothing when it may not be seen."""
    entries = os.fsdecode(read_environ(pid)).split("\0")
    entries.reverse()  # of a name that is there twice, a process takes the first
    pairs = [entry.partition("=") for entry in entries]
    return {name: value for name, equals, value in pairs if name and equals}


def find_variables(environ: bytes, names: Iterable[str]) -> dict[str, str | None] | None:
    """Find in an environment as it lies there these alone, None for one that is not set.

    None for an environment that tells nothing. Quicker than to read all of it.
    """
    if b"=" not in environ:  # not to be seen, or a title was written over it
        return None
    entries = b"\0" + environ
    return {name: _find_value(entries, name) for name in names}


def _find_value(entries: bytes, name: str) -> str | None:
    # Of a name that is there twice it is the first, as above.
    start = entries.find(before := os.fsencode(f"\0{name}="))
    if start < 0:
        return None
    start += len(before)
    end = entries.find(b"\0", start)  # none: the process has written over its own
    return os.fsdecode(entries[start : end if end >= 0 else None])


if sys.platform == "linux":

    def read_stat(pid: int) -> list[str] | None:
        """Read /proc/PID/stat from its third field on (proc(5)): state, parent, group and so on.

        None when the process is gone, or (hidepid) not ours to see; raises OSError where nobody
        can be looked at, as without descriptors.
        """
        text = _read(pid, "stat")
        # The second field is the program's name in parentheses, and may hold anything.
        return None if text is None else text.rpartition(b")")[2].decode().split()

    def _read(pid: int, name: str) -> bytes | None:
        # Everybody is looked at when somebody dies, so this has to be quick.
        try:
            descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except _NOT_TO_BE_SEEN:
            return None
        try:
            return os.read(descriptor, 4096)  # all of it: some 400 bytes
        except OSError:  # it went in between
            return None
        finally:
            os.close(descriptor)

    def is_dead(stat: list[str]) -> bool:
        """Whether a stat is a zombie's: every thread of it has ended, not the first one alone."""
        return stat[0] in _DEAD and int(stat[17]) <= 1

    def read_identity(pid: int) -> str | None:
        """Tell this process from any other that had or will have its pid; None when it is dead.

        The start in clock ticks since boot, and the boot: neither moves with the wall clock.
        One word, without blanks. Raises OSError where nobody can be looked at.
        """
        stat = read_stat(pid)
        return None if stat is None or is_dead(stat) else f"{stat[19]}@{_read_boot()}"

    def read_usage(pid: int) -> tuple[float, int] | None:
        """Read what a process used: CPU seconds since its start, bytes of memory now."""
        try:
            stat, sizes = read_stat(pid), _read(pid, "statm")
        except OSError:
            return None
        if stat is None or sizes is None:
            return None
        ticks = int(stat[11]) + int(stat[12])
        # The stat has the memory, too, but not exactly (proc(5)).
        pages = int(sizes.split()[1])
        return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")

    def read_environ(pid: int) -> bytes:
        """Read the environment a process had at its start, as it lies there; b"" for nothing.

        Raises OSError where nobody can be looked at.
        """
        # Not as a file object: everybody's is read in one look.
        try:
            descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        except _NOT_TO_BE_SEEN:
            return b""
        try:
            environ = block = os.read(descriptor, _ENVIRON_BYTES)
            while len(block) == _ENVIRON_BYTES:
                environ += (block := os.read(descriptor, _ENVIRON_BYTES))
        except OSError:
            return b""
        finally:
            os.close(descriptor)
        return environ

    def holds(pid: int, inode: int, device: int) -> bool | None:
        """Whether a process has this file open or mapped; None when it does not show that."""
        stat = read_stat(pid)
        if stat is not None and is_dead(stat):
            return False
        try:
            if _has_open(pid, inode, device) or _has_mapped(pid, inode):
                return True
        except PermissionError:
            return None
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            return False
        # A zombie leader has given up its files; its threads have not.
        return None if stat is not None and stat[0] in _DEAD else False

    def read_peer_uid(connection: socket.socket) -> int:
        """Read the uid of the process at the other end of a unix socket (SO_PEERCRED)."""
        # struct ucred: pid, uid, gid; the two constants are Linux's own (socket(7)).
        credentials = connection.getsockopt(1, 17, struct.calcsize("3i"))
        uid: int = struct.unpack("3i", credentials)[1]
        return uid

    def _has_open(pid: int, inode: int, device: int) -> bool:
        with os.scandir(_PROC / str(pid) / "fd") as descriptors:
            for descriptor in descriptors:
                try:
                    # Through the kernel's own reference: exact for renamed and removed files.
                    found = descriptor.stat()
                except PermissionError:
                    raise
                except OSError:  # closed meanwhile, or on a file system that is gone
                    continue
                if (found.st_ino, found.st_dev) == (inode, device):
                    return True
        return False

    def _has_mapped(pid: int, inode: int) -> bool:
        # The device there is not the one of stat on btrfs and overlayfs, so the inode decides,
        # among what is called like a shard.
        with (_PROC / str(pid) / "maps").open(encoding="utf-8", errors="replace") as lines:
            return any(
                fields[4] == str(inode) and ".db" in fields[5]
                for line in lines
                if len(fields := line.split(None, 5)) == 6
            )

    def _is_zombie(pid: int) -> bool:
        try:
            stat = read_stat(pid)
        except OSError:
            return False
        return stat is not None and is_dead(stat)

    @cache
    def _read_boot() -> str:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()

else:

    def read_identity(pid: int) -> str | None:
        """Tell this process from any other that had or will have its pid; None when it is dead.

        The kernel's record of its start, and the boot session. One word, without blanks.
        """
        state, *started = _ask("/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)).split() or ["Z"]
        return None if state.startswith("Z") else f"{'_'.join(started)}@{_read_boot()}"

    def read_usage(pid: int) -> tuple[float, int] | None:
        """Read what a process used: CPU seconds since its start, bytes of memory now."""
        import psutil  # noqa: PLC0415 - Linux needs none

        try:
            process = psutil.Process(pid)
            times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:
            return None
        return times.user + times.system, memory.rss

    def read_environ(pid: int) -> bytes:
        """Read the environment a process had at its start, as it lies there; b"" for nothing."""
        import psutil  # noqa: PLC0415 - Linux needs none

        try:
            entries = psutil.Process(pid).environ().items()
        except psutil.Error:
            return b""
        return b"\0".join(os.fsencode(f"{name}={value}") for name, value in entries)

    def holds(pid: int, inode: int, device: int) -> bool | None:
        """Whether a process has this file open; None when it does not show that."""
        import psutil  # noqa: PLC0415 - Linux needs none

        try:
            paths = [Path(entry.path) for entry in psutil.Process(pid).open_files()]
        except psutil.NoSuchProcess:  # ZombieProcess is one
            return False
        except psutil.AccessDenied:
            return None
        for path in paths:
            try:
                found = path.stat()
            except OSError:
                continue
            if (found.st_ino, found.st_dev) == (inode, device):
                return True
        return False

    def read_peer_uid(connection: socket.socket) -> int:
        """Read the uid of the process at the other end of a unix socket (LOCAL_PEERCRED)."""
        credentials = connection.getsockopt(0, 1, 76)  # struct xucred: u_int version, uid_t uid, …
        return int.from_bytes(credentials[4:8], sys.byteorder)

    def _is_zombie(pid: int) -> bool:
        return _ask("/bin/ps", "-o", "stat=", "-p", str(pid)).strip().startswith("Z")

    @cache
    def _read_boot() -> str:
        return _ask("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()

    def _ask(*command: str) -> str:
        import subprocess  # noqa: PLC0415 - Linux needs none

        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
