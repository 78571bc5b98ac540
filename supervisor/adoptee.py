"""A process that is ours and not our child: how it is watched, signalled and let go.

Its pid is pinned by nobody, so a bare number is never signalled: always a pidfd (or what the
system has in its place) that was held against the recorded identity first.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.observe import find_spawned
from supervisor.spawn import reap_stranger
from supervisor.told import Told, tell

if TYPE_CHECKING:
    from collections.abc import Iterable

# The kernel tells how it ended once whoever inherited it has reaped it, which is init's affair.
STATUS_LIMIT_SECONDS: Final = 1.0


# How old a look at everybody may be for a signal: a hundred are sent by one look.
_FRESH_SECONDS: Final = 0.1
# And for who is in a group whose leader lives, which is looked at again when it dies.
_KNOWN_SECONDS: Final = 1.0


@dataclass(slots=True)
class Census:
    """One look at everybody for all adoptees: who is in their groups, who bears their nonces."""

    groups: set[int] = field(default_factory=set)
    nonces: set[str] = field(default_factory=set)
    _members: dict[int, set[int]] = field(default_factory=dict)
    _members_at: float = -math.inf
    _spawned: dict[str, set[int]] = field(default_factory=dict)
    _spawned_at: float = -math.inf

    def expire(self) -> None:
        """Have the next question looked into: somebody has died."""
        self._members_at = self._spawned_at = -math.inf

    def find_members(self, group: int, age_seconds: float) -> set[int]:
        """List a group, from a look that is no older than this."""
        if time.monotonic() - self._members_at > age_seconds:
            self._members, self._members_at = kernel.find_members(self.groups), time.monotonic()
        return self._members.get(group, set())

    def find_spawned(self, nonce: str) -> set[int]:
        """List who was spawned with a nonce, or descends from them."""
        if time.monotonic() - self._spawned_at > _FRESH_SECONDS:
            self._spawned, self._spawned_at = find_spawned(self.nonces), time.monotonic()
        return self._spawned.get(nonce, set())


@dataclass(slots=True)
class Adoptee:
    """One incarnation that a former supervisor spawned; `identity` is None when it is dead."""

    name: str
    incarnation: int
    pid: int
    nonce: str
    identity: str | None
    census: Census
    _watch: kernel.ExitWatch | None = None
    _known: dict[int, str] = field(default_factory=dict)  # members of its group, as last seen
    _died_at: float | None = None
    _told: Told | None = None  # the last signal, for who is found later

    def __post_init__(self) -> None:
        """Be counted."""
        self.census.groups.add(self.pid)
        self.census.nonces |= {self.nonce} - {""}
        self.census.expire()

    def watch(self) -> int | None:
        """Watch it end; give the descriptor to wait for, None when it is dead already."""
        if self.identity is not None and self._watch is None:
            self._watch = kernel.watch_exit(self.pid, self.identity)
        if self._watch is None:
            return None
        self._learn(self.census.find_members(self.pid, _KNOWN_SECONDS))
        return self._watch.fileno()

    @property
    def descriptor(self) -> int | None:
        """What is waited for; None when nothing is."""
        return None if self._watch is None else self._watch.fileno()

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
            pids |= self.census.find_spawned(self.nonce)
        self._learn(pids)
        return set(self._known)

    def _find_members(self) -> Iterable[int]:
        """List its group, while that is its group: as long as somebody who was in it is."""
        members = self.census.find_members(self.pid, _FRESH_SECONDS)
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
        if number != signal.SIGKILL:  # one that is stopped would not notice
            numbers.append(signal.SIGCONT)
        try:
            remains = self.find_remains()
        except OSError:  # out of descriptors: who was there when it was last looked at
            remains = set(self._known)
        heard: dict[int, str] = {}
        for each in numbers:
            heard |= self._signal(remains, each)
        self._told = Told(number, heard)

    def _signal(self, remains: Iterable[int], number: int) -> dict[int, str]:
        """Signal its group at once, where that can be done, and the others; say who heard it."""
        heard: dict[int, str] = {}
        if self._watch is not None and self._watch.signal_group(number):
            with contextlib.suppress(OSError):
                members = set(self._find_members())
                heard = {pid: it for pid, it in self._known.items() if pid in members}
        for pid in set(remains) & self._known.keys() - heard.keys():
            with contextlib.suppress(OSError):  # out of descriptors: its next signal may reach it
                kernel.signal_process(pid, self._known[pid], number)
                heard[pid] = self._known[pid]
        return heard

    def catch_up(self) -> None:
        """Signal who has come since: forked by one that was dying, or orphaned by its end."""
        if self._told is not None:
            tell(self._told.find_due(self._known, time.monotonic()), self._told.number)

    def let_go(self) -> None:
        """Forget it, now that it is dead."""
        self.census.groups.discard(self.pid)
        self.census.nonces.discard(self.nonce)
        if self._watch is not None:
            # Out of descriptors nobody knows; a stranger that became our child is reaped anyway.
            with contextlib.suppress(OSError):
                if self._watch.pins():  # a zombie still: ours to reap, if it became our child
                    reap_stranger(self.pid)
            self._watch.close()
            self._watch = None
