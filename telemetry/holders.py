"""Who holds a port or a file: the one place that asks the operating system.

It only looks and never signals. Whatever a process refuses to show is left out, with one
exception: a living process that hides its open files counts as a holder of its own shards.
"""

# psutil is imported inside the functions: it is needed in a rare moment, by processes that
# should start fast.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from telemetry.masking import mask_secrets
from telemetry.shards import parse_shard_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_COMMAND_LENGTH: Final = 120
_Identity: TypeAlias = tuple[int, int]  # device, inode


@dataclass(frozen=True, slots=True)
class Holder:
    """A living process and its command line, harmless for a terminal and cut to one line."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})"


def find_port_holder(port: int) -> Holder | None:
    """Find the process that listens on a TCP port, IPv4 or IPv6, whatever the address.

    Of a parent and the children that inherited its socket, the parent: to end a child would
    not free the port. None when nobody listens or when the system does not tell this user.
    """
    pids = sorted(set(_list_listening_pids(port)))
    holders = (_find_holder(_find_eldest_listener(pid, port)) for pid in pids)
    return next((holder for holder in holders if holder is not None), None)


def render_holder(port: int) -> str:
    """Name the holder of a port for a message: `pid 123 (python -m http.server)`."""
    return str(find_port_holder(port) or "a process that this user may not see")


def find_file_holders(paths: Collection[Path]) -> dict[Path, tuple[Holder, ...]]:
    """Find the living processes that hold these files open; a file nobody holds is left out.

    Files are matched by device and inode, so another name or a removed one hides nothing.
    A process may refuse to show its files (another user's does): then it counts as a holder
    of the shards that bear its pid, because a shard wrongly kept costs less than one wrongly
    removed.
    """
    wanted = _identify(paths)
    if not wanted:
        return {}
    own_shards = _find_shards_by_pid(paths)
    found: dict[Path, list[Holder]] = {}
    for pid, identities in _list_open_files():
        held = (
            own_shards.get(pid, ())
            if identities is None
            else [path for identity in identities & wanted.keys() for path in wanted[identity]]
        )
        if held and (holder := _find_holder(pid)) is not None:
            for path in held:
                found.setdefault(path, []).append(holder)
    return {path: tuple(holders) for path, holders in found.items()}


def render_command(arguments: Sequence[str]) -> str:
    """Render a command line for a terminal: secrets masked, controls escaped, cut to 120."""
    text = " ".join(mask_secrets(arguments))[: _COMMAND_LENGTH + 1]
    harmless = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    if len(harmless) <= _COMMAND_LENGTH:
        return harmless
    return harmless[: _COMMAND_LENGTH - 1] + "…"


def _list_listening_pids(port: int) -> Iterator[int]:
    import psutil

    try:
        everybody = [
            (entry.pid, entry.status, entry.laddr) for entry in psutil.net_connections(kind="tcp")
        ]
    except psutil.AccessDenied:  # macOS shows only root everybody's connections at once
        everybody = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                connections = process.net_connections(kind="tcp")
                everybody += [(process.pid, entry.status, entry.laddr) for entry in connections]
    for pid, status, address in everybody:
        if pid and _listens(status, address, port):
            yield pid


def _find_eldest_listener(pid: int, port: int) -> int:
    """Climb from a listener to its parent as long as that one listens too."""
    import psutil

    with suppress(psutil.Error):
        for parent in psutil.Process(pid).parents():
            entries = parent.net_connections(kind="tcp")
            if not any(_listens(entry.status, entry.laddr, port) for entry in entries):
                break
            pid = parent.pid
    return pid


def _listens(status: str, address: Any, port: int) -> bool:
    import psutil

    return status == psutil.CONN_LISTEN and bool(address) and address.port == port


def _find_holder(pid: int) -> Holder | None:
    """Describe a process, None when it has ended (a zombie holds nothing any more)."""
    import psutil

    command = []
    try:
        process = psutil.Process(pid)
        command = [process.name()]
        command = process.cmdline() or command
    except psutil.NoSuchProcess:  # ZombieProcess is one
        return None
    except psutil.AccessDenied:  # then the name is all that there is
        pass
    return Holder(pid, render_command(command) or "unknown command")


def _identify(paths: Collection[Path]) -> dict[_Identity, list[Path]]:
    wanted: dict[_Identity, list[Path]] = {}
    for path in paths:
        with suppress(FileNotFoundError):
            found = path.stat()
            wanted.setdefault((found.st_dev, found.st_ino), []).append(path)
    return wanted


def _find_shards_by_pid(paths: Collection[Path]) -> dict[int, list[Path]]:
    shards: dict[int, list[Path]] = {}
    for path in paths:
        if parsed := parse_shard_name(path.name):
            shards.setdefault(parsed[2], []).append(path)
    return shards


def _list_open_files() -> Iterator[tuple[int, set[_Identity] | None]]:
    """Yield each living process's open files, None for one that does not show them."""
    import psutil

    read = _read_open_files_of_proc if sys.platform == "linux" else _read_open_files
    for pid in psutil.pids():
        try:
            yield pid, read(pid)
        except PermissionError:
            yield pid, None
        except (FileNotFoundError, ProcessLookupError):  # ended in the meantime
            continue


def _read_open_files_of_proc(pid: int) -> set[_Identity]:
    # Each entry's stat goes through the kernel's own reference: exact for removed and renamed
    # files, where psutil's open_files reads names and leaves the removed ones out.
    identities = set()
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            try:
                found = descriptor.stat()
            except PermissionError:
                raise
            except OSError:  # closed in the meantime, or on a file system that is gone
                continue
            identities.add((found.st_dev, found.st_ino))
    return identities


def _read_open_files(pid: int) -> set[_Identity]:
    import psutil

    try:
        opened = psutil.Process(pid).open_files()
    except psutil.AccessDenied as error:
        raise PermissionError(pid) from error
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(pid) from error
    identities = set()
    for entry in opened:
        with suppress(OSError):
            found = Path(entry.path).stat()
            identities.add((found.st_dev, found.st_ino))
    return identities
