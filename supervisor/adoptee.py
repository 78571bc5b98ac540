"""A process that is ours and not our child: how it is watched, signalled and let go.

Its pid is pinned by nobody, so a bare number is never signalled: always a pidfd (or what the
system has in its place) that was held against the recorded identity first.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.observe import find_spawned
from supervisor.spawn import reap_stranger

if TYPE_CHECKING:
    from collections.abc import Iterable

# The kernel tells how it ended once whoever inherited it has reaped it, which is init's affair.
STATUS_LIMIT_SECONDS: Final = 1.0


@dataclass(slots=True)
class Adoptee:
    """One incarnation that a former supervisor spawned; `identity` is None when it is dead."""

    name: str
    incarnation: int
    pid: int
    nonce: str
    identity: str | None
    _watch: kernel.ExitWatch | None = None
    _known: dict[int, str] = field(default_factory=dict)  # members of its group, as last seen
    _died_at: float | None = None
    _sent: int | None = None  # the last signal, for who is found later
    _reached: dict[int, str] = field(default_factory=dict)

    def watch(self) -> int | None:
        """Watch it end; give the descriptor to wait for, None when it is dead already."""
        if self.identity is not None and self._watch is None:
            self._watch = kernel.watch_exit(self.pid, self.identity)
        if self._watch is None:
            return None
        self._learn(kernel.find_members({self.pid})[self.pid])
        return self._watch.fileno()

    def peek(self) -> kernel.Exit | None:
        """Look whether it is dead; None while it lives, and while its status may yet be told."""
        if self._watch is None:
            return kernel.Exit(None)
        if not self._watch.has_exited():
            return None
        now = time.monotonic()
        self._died_at = now if self._died_at is None else self._died_at
        found = self._watch.read_exit()
        if found is None and now - self._died_at >= STATUS_LIMIT_SECONDS:
            return kernel.Exit(None)
        return found

    @property
    def is_settling(self) -> bool:
        """Whether it is dead, and how it ended may yet be told."""
        return self._died_at is not None

    def find_remains(self) -> set[int]:
        """Find who lives of it: its group, and who left that but was spawned with its nonce.

        Its leader, which may live, is among them.
        """
        pids = set(self._find_members())
        if self.nonce:
            pids |= find_spawned({self.nonce}).get(self.nonce, set())
        self._learn(pids)
        return pids

    def _find_members(self) -> Iterable[int]:
        """List its group, while that is its group: as long as somebody who was in it is."""
        members = kernel.find_members({self.pid})[self.pid]
        # The number of a group is given to no other as long as one of its members lives, or
        # its leader waits to be reaped.
        pinned = self._watch is not None and self._watch.pins()
        if pinned or any(kernel.read_identity(p) == i for p, i in self._known.items()):
            return members
        return ()

    def _learn(self, pids: Iterable[int]) -> None:
        identities = ((pid, kernel.read_identity(pid)) for pid in pids)
        self._known = {pid: identity for pid, identity in identities if identity is not None}

    def signal_group(self, number: int) -> None:
        """Signal its whole group, and who left it: each as the process it is, by no bare number."""
        numbers = [number]
        if number == signal.SIGTERM:  # one that is stopped would not notice
            numbers.append(signal.SIGCONT)
        self._sent, self._reached = number, {}
        remains = self.find_remains()
        for each in numbers:
            if self._watch is not None and self._watch.signal_group(each):
                members = set(self._find_members())
                self._reached = {p: i for p, i in self._known.items() if p in members}
            for pid in remains & self._known.keys() - self._reached.keys():
                kernel.signal_process(pid, self._known[pid], each)
        self._reached = dict(self._known)

    def catch_up(self) -> None:
        """Signal who has come since: forked by one that was dying, or orphaned by its end."""
        if self._sent is None:
            return
        for pid, identity in self._known.items():
            if self._reached.get(pid) != identity:
                self._reached[pid] = identity
                kernel.signal_process(pid, identity, self._sent)

    def let_go(self) -> None:
        """Forget it, now that it is dead."""
        reap_stranger(self.pid)  # where it became our child after all
        if self._watch is not None:
            self._watch.close()
            self._watch = None
