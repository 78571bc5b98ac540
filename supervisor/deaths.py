"""The dying of our children: signalled, peeked at, claimed, and reaped last.

A zombie stays one until nobody is left of its group and its shards are claimed; so does a
stranger that became our child. SIGCHLD is only a hint to look, the peek is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel, spawn
from supervisor.adoptee import Adoptee, Census
from supervisor.descriptors import Reserve
from supervisor.events import Claimed, ClaimFailed, Exited, GroupGone
from supervisor.lifecycle import CLAIM_TRIES
from supervisor.remains import Remains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.children import Children
    from supervisor.claims import Claims
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

# Whoever escaped gets half a second for each: TERM, then KILL.
ESCAPED_SECONDS: Final = 0.5


@dataclass(slots=True, kw_only=True)
class Deaths:
    """Everybody of ours who is dying or dead. `hint` asks for a look at the next turn."""

    run_dir: RunDir
    children: Children
    claims: Claims
    hint: Callable[[], None]
    census: Census = field(default_factory=Census)
    reserve: Reserve = field(default_factory=Reserve)
    remains: Remains = field(init=False)
    _dead: set[str] = field(default_factory=set)  # zombies, peeked at and not reaped yet
    _settling: set[str] = field(default_factory=set)  # adopted and dead: how may yet be told
    _doubted: bool = False
    _strangers: dict[int, int] = field(default_factory=dict)  # zombies too: their failed claims

    def __post_init__(self) -> None:
        """Look after what our own children leave."""
        self.remains = Remains(self.children)

    def begin(self) -> None:
        """Have orphans become our children, before there is anybody to leave one."""
        self.reserve.fill()
        self.remains.spared = kernel.find_children()  # of a shell that became us by exec
        kernel.become_subreaper()

    # -- Looking --------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether somebody is dead who is not reaped yet: no signal tells of the rest."""
        return bool(self._dead or self._settling or self._strangers)

    def doubt(self) -> None:
        """Look at each child the next time if one is missing: somebody else has reaped it."""
        children = self.children.present.values()
        own = {child.pid for child in children if not isinstance(child, Adoptee)}
        with contextlib.suppress(OSError):  # out of descriptors: look at each
            if own <= kernel.find_children():
                return
        self._doubted = True
        self.hint()

    def look_anyway(self) -> None:
        """Look if anybody may have ended of whom no signal has told us."""
        if self.census.groups or kernel.has_dead_child():  # no signal tells of adoptees
            self.hint()

    def find_exits(self) -> list[Exited | GroupGone]:
        """Peek at every child, and at what is left of the dead; raises OSError."""
        with self.reserve.at_hand():
            exits = self._find_exits()
        self._doubted = False
        return exits

    def _find_exits(self) -> list[Exited | GroupGone]:
        any_dead = self._doubted or kernel.has_dead_child()
        fresh = {
            child.name: found
            for child in self.children.present.values()
            if (any_dead or isinstance(child, Adoptee))
            and child.name not in self._dead
            and (found := _peek(child)) is not None
        }
        remaining = self._find_remaining(fresh.keys() | self._dead)
        gone = self._dead - remaining
        self._dead |= fresh.keys()
        self._settling -= fresh.keys()
        present = self.children.present
        return [
            *(
                Exited(name, present[name].incarnation, found.returncode, name in remaining)
                for name, found in fresh.items()
            ),
            *(GroupGone(name, present[name].incarnation) for name in gone),
        ]

    def _find_remaining(self, names: set[str]) -> set[str]:
        """Find of which of these, whose leaders are dead, somebody lives."""
        children = [self.children.present[name] for name in names]
        found = self.remains.find(c for c in children if not isinstance(c, Adoptee))
        self.census.expire()
        for child in children:
            if isinstance(child, Adoptee):
                found[child.name] = child.find_remains()
                child.catch_up()
        return {name for name, pids in found.items() if pids}

    # -- Who was adopted ------------------------------------------------------------------------

    def watch(self, adoptee: Adoptee) -> None:
        """Look when it ends, which no SIGCHLD tells of."""
        descriptor = adoptee.watch()
        if descriptor is None:
            self.hint()
            return
        loop = asyncio.get_running_loop()

        def note() -> None:
            loop.remove_reader(descriptor)  # it stays readable for ever
            self._settling.add(adoptee.name)
            self.hint()

        loop.add_reader(descriptor, note)

    def note_dead(self, name: str) -> None:
        """Take in one that was dead when it was found."""
        self._dead.add(name)

    # -- What the fleet asks for ------------------------------------------------------------------

    def signal(self, name: str, number: int) -> None:
        """Signal whatever is left of a child."""
        child = self.children.present[name]
        with self.reserve.at_hand():
            if isinstance(child, Adoptee):
                child.signal_group(number)
            else:
                self.remains.signal(child, number)

    def claim(self, name: str, incarnation: int, pid: int) -> Claimed | ClaimFailed:
        """Claim the shards of one that is dead, and of whose group nobody is left."""
        pinned = not isinstance(self.children.present[name], Adoptee)
        with self.reserve.at_hand():
            reason = self.claims.claim(name, pid, pinned=pinned)
        if reason is None:
            return Claimed(name, incarnation)
        return ClaimFailed(name, incarnation, reason)

    def reap(self, name: str, told: int | None) -> int | None:
        """Give its pid back, or let go of what was no child of ours; say how it ended.

        Of the latter that was `told` when it exited, or never.
        """
        self._dead.discard(name)
        child = self.children.present.pop(name)
        kernel.SpawnLock(self.run_dir.states, self.children.find_nonce(name)).remove()
        if isinstance(child, Adoptee):
            if child.descriptor is not None:
                # It may have been reaped before the loop came to its reader, which would stay:
                # whoever connects next gets that number, and would never be heard.
                asyncio.get_running_loop().remove_reader(child.descriptor)
            child.let_go()
            return told
        self.remains.forget(name)
        return spawn.reap(child)

    # -- Strangers --------------------------------------------------------------------------------

    def reap_strangers(self) -> None:
        """Reap the dead among the orphans that became our children, each claimed first."""
        if not kernel.has_dead_child():
            return
        for pid in kernel.find_children() - self.children.pids:
            if kernel.peek(pid) is not None and self._claim_stranger(pid):
                spawn.reap_stranger(pid)

    def _claim_stranger(self, pid: int) -> bool:
        """Claim an orphan's shards; false while that is to be tried again, at the next look."""
        failures = self._strangers.pop(pid, 0)
        with self.reserve.at_hand():
            claimed = self.claims.claim("an orphan", pid) is None
        if claimed or failures + 1 >= CLAIM_TRIES:
            return True
        self._strangers[pid] = failures + 1
        return False

    def end_escaped(self) -> Iterator[None]:
        """End who left the group of its session, and became ours when its parent died.

        Yields whenever there is something to wait for.
        """
        spared = self.remains.spared | self.children.pids
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + ESCAPED_SECONDS
            while (escaped := kernel.find_children() - spared) and time.monotonic() < deadline:
                for pid in escaped:
                    spawn.signal_orphan(pid, number)
                yield
                self.reap_strangers()
            if escaped and number is signal.SIGTERM:
                log.warning("kill what escaped its session's group: %s", sorted(escaped))


def _peek(child: spawn.Child | Adoptee) -> kernel.Exit | None:
    return child.peek() if isinstance(child, Adoptee) else spawn.peek(child)
