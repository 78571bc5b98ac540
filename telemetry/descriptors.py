"""How many descriptors this process may have, and how many are for clients and for shards.

An accept that fails for want of a descriptor would be tried again at once, for ever; a shard
without one is only opened anew at each scrape. So clients get theirs first.
"""

from __future__ import annotations

import resource
from typing import Final, NamedTuple

# Connections beyond this many are nobody who scrapes.
_CONNECTIONS: Final = 2048
# Stdio, the listening socket, the wake-up pipe, the lock, a base or a listing being read.
_RESERVED: Final = 32
_WANTED: Final = 1 << 16


class Shares(NamedTuple):
    """The descriptors for connections, and those for shards that stay open."""

    connections: int
    shards: int


def decide_shares(limit: int) -> Shares:
    """Divide a limit of descriptors: there is always one connection, and never one too many."""
    connections = max(1, min(_CONNECTIONS, (limit - _RESERVED) // 2))
    return Shares(connections, max(0, limit - _RESERVED - connections))


def raise_limit() -> Shares:
    """Raise the soft limit as far as it helps and may be; divide what there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _WANTED:
        return decide_shares(_WANTED)
    raised = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # macOS has a limit of its own below an infinite hard one
        return decide_shares(soft)
    return decide_shares(raised)
