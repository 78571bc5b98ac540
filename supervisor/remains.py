"""Who is left of a session besides its leader: its group, and who left that group.

It finds and signals; when, the core says. The group is pinned by its unreaped leader; everybody
else is signalled as the process it was found to be, never by a bare number.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.observe import find_spawned, read_nonce
from supervisor.spawn import Child, signal_group
from supervisor.told import Told, tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.children import Children

SEEN_SECONDS: Final = 0.1


@dataclass(slots=True)
class Remains:
    """The remains of our own children.

    `spared` are children that we never spawned: of a shell that became us by exec.
    """

    children: Children
    spared: set[int] = field(default_factory=set)
    _nonces: dict[int, str] = field(default_factory=dict)  # of orphans that became our children
    _groups: tuple[float, dict[int, set[int]]] = (0.0, {})  # as last seen, and when that was
    _escaped: tuple[float, dict[str, set[int]]] = (0.0, {})
    _told: dict[str, Told] = field(default_factory=dict)

    def find(self, children: Iterable[Child]) -> dict[str, set[int]]:
        """Find who lives of each of these, whose leaders are dead; in one look at everybody.

        Who was forked since the last signal, or orphaned by it, is sent that signal too.
        """
        children = tuple(children)
        if not children:
            return {}
        if kernel.SUBREAPS and not self._find_orphans():
            # Of whoever descends from the dead, the eldest is our child now.
            return {child.name: set() for child in children}
        members = kernel.find_members({child.pid for child in children})
        escaped = self._find_escaped(
            {self.children.find_nonce(child.name) for child in children} - {""}
        )
        found = {}
        for child in children:
            nonce = self.children.find_nonce(child.name)
            found[child.name] = members.get(child.pid, set()) | escaped.get(nonce, set())
            if child.name in self._told:
                told = self._told[child.name]
                tell(told.find_due(_identify(found[child.name]), time.monotonic()), told.number)
        return found

    def _find_escaped(self, nonces: set[str]) -> dict[str, set[int]]:
        """Find who was spawned with a nonce and is in no group of ours, with all its offspring."""
        if not kernel.SUBREAPS:
            return find_spawned(nonces) if nonces else {}
        # Whoever left its group is our child once its own parent is dead, and keeps its pid, and
        # here the nonce it had when it was first seen, until we reap it.
        orphans = self._find_orphans()
        known = self._nonces
        self._nonces = {pid: known[pid] if pid in known else read_nonce(pid) for pid in orphans}
        found: dict[str, set[int]] = {}
        for pid, nonce in self._nonces.items():
            if nonce in nonces and kernel.read_identity(pid) is not None:
                found.setdefault(nonce, set()).add(pid)
        offspring = kernel.find_offspring(set().union(*found.values())) if found else {}
        return {
            nonce: pids.union(*(offspring.get(pid, ()) for pid in pids))
            for nonce, pids in found.items()
        }

    def _find_orphans(self) -> set[int]:
        return kernel.find_children() - self.children.pids - self.spared

    def signal(self, child: Child, number: int) -> None:
        """Signal the group and who left it; who is found later is sent the same by `find`."""
        try:
            group = self._list_group(child.pid) if number != signal.SIGKILL else ()
        except OSError:
            group = ()
        signal_group(child, number)
        # Whoever has heard it is not told twice, which may mean something else. But without
        # descriptors nobody can be looked at, and twice is better than not at all.
        heard: dict[int, str] = {}
        with contextlib.suppress(OSError):
            escaped = _identify(self._list_escaped(self.children.find_nonce(child.name)))
            tell(escaped, number)
            heard = {**_identify(group), **escaped}
        self._told[child.name] = Told(number, heard)

    def _list_escaped(self, nonce: str) -> set[int]:
        """Find who left a group, from a look at all that is fresh enough for a stop of all."""
        at, escaped = self._escaped
        if nonce and (nonce not in escaped or time.monotonic() - at > SEEN_SECONDS):
            nonces = self.children.nonces | {nonce}
            found = self._find_escaped(nonces)
            escaped = {nonce: found.get(nonce, set()) for nonce in nonces}
            self._escaped = time.monotonic(), escaped
        return escaped.get(nonce, set())

    def _list_group(self, leader: int) -> set[int]:
        """List a group, likewise."""
        at, members = self._groups
        if leader not in members or time.monotonic() - at > SEEN_SECONDS:
            found = kernel.find_members(self.children.pids)
            members = {pid: found.get(pid, set()) for pid in self.children.pids}
            self._groups = time.monotonic(), members
        return members.get(leader, set())

    def forget(self, name: str) -> None:
        """Forget a leader that was reaped: nobody is left of it."""
        self._told.pop(name, None)


def _identify(pids: Iterable[int]) -> dict[int, str]:
    found = ((pid, kernel.read_identity(pid)) for pid in pids)
    return {pid: identity for pid, identity in found if identity is not None}
