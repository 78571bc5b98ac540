"""The supervisor's claims: of each of the dead, and of shards that nobody living owns.

All in the loop's thread; only the looking around has a thread of its own. Nothing here ends
the supervision: what cannot be done is told, and tried again by the next sweep.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor.drift import MENDED_SECONDS
from supervisor.drift.facts import FailedClaim, Orphan
from telemetry.claim import claim, complete_claims, find_unowned
from telemetry.clearing import find_clear_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from pathlib import Path

log = logging.getLogger("ptsup")

# How long a dead pid's shards may lie unclaimed when nobody told us of its death.
SWEEP_SECONDS: Final = 15.0
# The pid that stands for no process, but for the sweep itself.
_NOBODY: Final = 0


@dataclass(slots=True, kw_only=True)
class Claims:
    """Claims in one shard directory. `find_own` lists the children that are not reaped yet."""

    directory: Path
    find_own: Callable[[], set[int]]
    note_change: Callable[[], None]
    failed: dict[int, FailedClaim] = field(default_factory=dict)  # by pid
    orphans: list[Orphan] = field(default_factory=list)  # those of late
    _number: int = 0  # the last that was given
    _clean_at: float = -math.inf  # when a look last found nothing to sweep for

    def claim(self, name: str, pid: int, *, pinned: bool = True) -> str | None:
        """Claim the shards of one of ours that died; None when that is done, else why it is not.

        `pinned` unless it was no child of ours, whose pid may be given away at any time.
        """
        return self._claim(f"{name} (pid {pid})", pid, pinned=pinned)

    def note_look(self, *, clean: bool) -> None:
        """Note that somebody looked: `clean` when every shard is of a child not reaped yet."""
        self._clean_at = time.monotonic() if clean else -math.inf

    def sweep_in_turn(self) -> Coroutine[Any, Any, None] | None:
        """Begin a sweep, unless it is known that it would find nothing."""
        known = time.monotonic() - self._clean_at < SWEEP_SECONDS
        return None if known and not self.failed else self.sweep()

    async def sweep(self) -> None:
        """Claim what nobody living owns: of workers whose own parent reaped them, of strangers."""
        try:
            await self._sweep()
        except Exception as error:  # noqa: BLE001 - out of threads, say: the next one may do it
            self._note_failure("the sweep", _NOBODY, error)

    async def _sweep(self) -> None:
        unowned = await asyncio.to_thread(_find_unowned, self.directory, self.find_own())
        self._number = complete_claims(self.directory, self._number).number
        if self.failed:
            self._forget(self.failed.keys() - unowned - self.find_own())
        for pid in sorted(unowned):
            if pid not in self.find_own():  # it may have been given to a child of ours by now
                self._claim(f"pid {pid}", pid, pinned=False, orphan=True)
            await asyncio.sleep(0)

    def _claim(self, subject: str, pid: int, *, pinned: bool, orphan: bool = False) -> str | None:
        known = pid in self.failed  # its death was told, and only its claim is late
        try:
            done = claim(self.directory, pid, pinned=pinned, after=self._number)
        except Exception as error:  # noqa: BLE001 - whatever it was, supervision goes on
            return self._note_failure(subject, pid, error)
        self._number = done.number
        self._forget({pid})
        if orphan and done.shards and not known:
            self._note_orphan(Orphan(pid, done.shards, time.monotonic()))
        return None

    def _note_orphan(self, orphan: Orphan) -> None:
        recent = [known for known in self.orphans if orphan.at - known.at < MENDED_SECONDS]
        self.orphans = [*recent, orphan]
        self.note_change()

    def _note_failure(self, subject: str, pid: int, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or repr(error)
        former = self.failed.get(pid)
        if former is None or former.reason != reason:
            at = former.at if former else time.monotonic()
            self.failed[pid] = FailedClaim(subject, reason, at, SWEEP_SECONDS)
            self.note_change()
        return reason

    def _forget(self, pids: set[int]) -> None:
        for pid in pids & self.failed.keys():
            del self.failed[pid]
            self.note_change()


def bury(directory: Path) -> tuple[Orphan, ...]:
    """Claim for whom a crashed supervisor no longer could; give back who that was.

    Totals of a crash are not cleared.
    """
    orphans = []
    try:
        complete_claims(directory)
        for pid in sorted(_find_unowned(directory, ())):
            done = claim(directory, pid, pinned=False)
            orphans.append(Orphan(pid, done.shards, time.monotonic()))
    except OSError as error:  # the first sweep will try again
        log.warning("cannot claim the shards of the dead: %s", error.strerror)
    return tuple(orphan for orphan in orphans if orphan.shards)


def _find_unowned(directory: Path, living: Collection[int]) -> set[int]:
    """Find whose shards nobody owns, but not where somebody else's may have come to lie.

    Raises OSError.
    """
    if refusal := find_clear_refusal(directory):
        raise PermissionError(errno.EPERM, f"{directory} is not looked through: {refusal}")
    return find_unowned(directory, living)
