"""Every difference between operating systems the supervisor needs, one file each.

Both files have the same functions. Nothing outside this package asks `sys.platform`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from telemetry.processes import read_identity


@dataclass(frozen=True, slots=True)
class Exit:
    """A child that is a zombie; None when its status cannot be read without reaping it."""

    returncode: int | None


if sys.platform == "linux":
    from supervisor.kernel.linux import (
        become_subreaper,
        find_children,
        find_members,
        peek,
        read_peer_uid,
        signal_process,
    )
else:
    from supervisor.kernel.darwin import (
        become_subreaper,
        find_children,
        find_members,
        peek,
        read_peer_uid,
        signal_process,
    )

__all__ = [
    "Exit",
    "become_subreaper",
    "find_children",
    "find_members",
    "peek",
    "read_identity",
    "read_peer_uid",
    "signal_process",
]
