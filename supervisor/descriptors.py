"""How many descriptors we may have open: who is adopted takes one to be watched, a child none.

Our own limit is raised where it is too low for that; a session goes by the one we were given.
"""

from __future__ import annotations

import resource
from typing import Final

from supervisor.errors import PtsupError

# For sockets, clients, logs, and what is looked at; and without how many of them nothing works.
_BESIDE: Final = 128
_LEAST: Final = 32


def make_room(watched: int) -> int | None:
    """Have room to watch so many; give back the soft limit that was raised, None if none was.

    Raises PtsupError where the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = watched + _BESIDE
    if not watched or soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    if hard != resource.RLIM_INFINITY:
        if hard < watched + _LEAST:
            raise PtsupError(
                f"cannot start: {watched} processes live on, each takes a descriptor to be watched,"
                f" and only {hard} may be open",
                f"have more: `ulimit -n {wanted}`",
            )
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft
