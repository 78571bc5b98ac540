"""Every difference between operating systems the supervisor needs.

Each has its files, with the same functions and classes. Nothing outside this package asks
`sys.platform`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from telemetry.processes import read_identity, read_peer_uid


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; None when it cannot be known, or not before the reap."""

    returncode: int | None


if sys.platform == "linux":
    from supervisor.kernel.linux import (
        POLLS_SELECTORS,
        SUBREAPS,
        ChangeWatch,
        ExitWatch,
        become_subreaper,
        find_children,
        find_data,
        find_hole,
        find_members,
        find_offspring,
        find_socket_holders,
        has_dead_child,
        list_open_files,
        list_own_descriptors,
        peek,
        punch_hole,
        read_listener_pid,
        signal_process,
        watch_changes,
        watch_exit,
    )
    from supervisor.kernel.listening import list_listening
    from supervisor.kernel.spawn_lock import SpawnLock
else:
    from supervisor.kernel.darwin import (
        POLLS_SELECTORS,
        SUBREAPS,
        ChangeWatch,
        ExitWatch,
        become_subreaper,
        find_children,
        find_data,
        find_hole,
        find_members,
        find_offspring,
        find_socket_holders,
        has_dead_child,
        list_listening,
        list_open_files,
        list_own_descriptors,
        peek,
        punch_hole,
        read_listener_pid,
        signal_process,
        watch_changes,
        watch_exit,
    )
    from supervisor.kernel.file_lock import SpawnLock

__all__ = [
    "POLLS_SELECTORS",
    "SUBREAPS",
    "ChangeWatch",
    "Exit",
    "ExitWatch",
    "SpawnLock",
    "become_subreaper",
    "find_children",
    "find_data",
    "find_hole",
    "find_members",
    "find_offspring",
    "find_socket_holders",
    "has_dead_child",
    "list_listening",
    "list_open_files",
    "list_own_descriptors",
    "peek",
    "punch_hole",
    "read_identity",
    "read_listener_pid",
    "read_peer_uid",
    "signal_process",
    "watch_changes",
    "watch_exit",
]
