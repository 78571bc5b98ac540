"""How many descriptors we may have open: who is adopted takes one to be watched, a child none.

Our own limit is raised where it is too low for that; a session goes by the one we were given.
Should they run out all the same, some are kept, so that whoever has to end can be ended.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor.errors import PtsupError

if TYPE_CHECKING:
    from collections.abc import Iterator

# For sockets, clients, logs, and what is looked at; and without how many of them nothing works.
_BESIDE: Final = 128
_LEAST: Final = 32
# A look at who lives takes one at a time, a signal to one of those two.
_KEPT: Final = 4


def make_room(watched: int) -> int | None:
    """Have room to watch so many; give back the soft limit that was raised, None if none was.

    Raises PtsupError where the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = watched + _BESIDE
    if soft == resource.RLIM_INFINITY or soft >= (wanted if watched else _LEAST):
        return None
    if hard != resource.RLIM_INFINITY:
        if hard < watched + _LEAST:
            why = f"{watched} processes live on, each takes a descriptor to be watched, and "
            raise PtsupError(
                f"cannot start: {why if watched else ''}only {hard} files may be open",
                f"have more: `ulimit -n {wanted}`",
            )
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


@dataclass(slots=True)
class Reserve:
    """Descriptors that are kept for when there are no others."""

    # The first stays: the others are copies of it, at a quarter of the time of opening each anew.
    _kept: list[int] = field(default_factory=list)

    def fill(self) -> bool:
        """Keep as many as there should be; False where fewer can be had."""
        with contextlib.suppress(OSError):
            if not self._kept:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            while len(self._kept) <= _KEPT:
                self._kept.append(os.dup(self._kept[0]))
        return len(self._kept) > _KEPT

    def spend(self) -> None:
        """Let whoever is first have them."""
        while len(self._kept) > 1:
            os.close(self._kept.pop())

    @contextlib.contextmanager
    def at_hand(self) -> Iterator[None]:
        """Have some within, unless a thread of ours takes them, or (ENFILE) somebody else."""
        self.spend()
        try:
            yield
        finally:
            self.fill()
