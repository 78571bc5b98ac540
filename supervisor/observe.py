"""What processes really do: the only psutil import. It looks and never touches."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from supervisor.environ import SPAWN_VARIABLE
from supervisor.status import ShardFacts
from telemetry.claim import list_unfolded
from telemetry.processes import holds, is_alive, read_environment, read_usage
from telemetry.shards import RETIRED, list_shards

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process used: CPU time since its start, and memory now."""

    cpu_seconds: float
    rss_bytes: int


def sample_usage(pids: Iterable[int]) -> dict[int, Usage]:
    """Sample these processes; one that is gone is left out."""
    return {pid: Usage(*used) for pid in pids if (used := read_usage(pid)) is not None}


def find_spawned(nonces: Collection[str]) -> dict[str, set[int]]:
    """Find the living processes that were spawned with these nonces, or descend from them.

    By their environment at their start: one that has replaced it is not found.
    """
    found: dict[str, set[int]] = {}
    for process in psutil.process_iter():
        try:
            nonce = process.environ().get(SPAWN_VARIABLE)
        except psutil.Error:  # gone, a zombie, or not ours to see
            continue
        if nonce is not None and nonce in nonces and process.pid != os.getpid():
            found.setdefault(nonce, set()).add(process.pid)
    return found


def read_nonce(pid: int) -> str:
    """Read the nonce a process was spawned with, or inherited; empty when it shows none."""
    return read_environment(pid).get(SPAWN_VARIABLE, "")


def find_holders(inode: int, device: int) -> set[int]:
    """Find the living processes that hold a file open, as far as they show it; not ourselves."""
    pids = set(psutil.pids()) - {os.getpid()}
    return {pid for pid in pids if holds(pid, inode, device)}


def read_command(pid: int) -> tuple[str, ...]:
    """Read a process's command as the system shows it; nothing when it may not be seen."""
    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def find_ancestors(pid: int) -> tuple[int, ...]:
    """Find a process's parent, that one's parent and so on, as far as that may be seen."""
    try:
        return tuple(parent.pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return ()


def list_own_pids() -> list[int]:
    """List the processes of this user."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid():
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def read_place(pid: int) -> tuple[str, str]:
    """Read a process's program and working directory; "" for what may not be seen."""
    found = {"exe": "", "cwd": ""}
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        found["exe"] = process.exe()
        found["cwd"] = process.cwd()
    return found["exe"], found["cwd"]


def read_age_seconds(pid: int) -> float:
    """Read for how long a process has lived; 0 when that may not be seen."""
    try:
        started = psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.Error:
        return 0.0
    return max(0.0, time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", 1)) - started)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def find_outside_address() -> str:
    """Find an address of this machine that others reach it by; "" when it has none."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        for address in addresses if name in up else ():
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    return ""


def list_pids() -> list[int]:
    """List everybody."""
    return psutil.pids()


def count_shards(directory: Path) -> ShardFacts:
    """Count the shards of the living and of the dead, and the bytes they take."""
    by_pid: Counter[int] = Counter()
    size = 0
    for shard in list_shards(directory):
        found = _find_bytes(shard.path)
        if found is not None:
            by_pid[shard.pid] += 1
            size += found
    claimed = [
        found for path in list_unfolded(directory) if (found := _find_bytes(path)) is not None
    ]
    live = sum(count for pid, count in by_pid.items() if is_alive(pid))
    return ShardFacts(
        directory=str(directory),
        by_pid=by_pid,
        live=live,
        retired=by_pid.total() - live + len(claimed),
        bytes=size + sum(claimed) + (_find_bytes(directory / RETIRED / "base") or 0),
    )


def _find_bytes(path: Path) -> int | None:
    """Find a file's size; None when it was claimed or folded in the meantime, or never was."""
    try:
        return path.stat().st_size
    except OSError:
        return None
