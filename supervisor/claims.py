"""The supervisor's claims: of each of the dead, and of shards that nobody living owns.

All in the loop's thread; only the looking around has a thread of its own. Nothing here ends
the supervision: what cannot be done is told, and tried again by the next sweep.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor.drift import CLAIM_FAILED, Finding
from telemetry.claim import claim, complete_claims, find_unowned
from telemetry.clearing import find_clear_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
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
    findings: dict[int, Finding] = field(default_factory=dict)  # by pid
    _number: int = 0  # the last that was given

    def claim(self, name: str, pid: int, *, pinned: bool = True) -> str | None:
        """Claim the shards of one of ours that died; None when that is done, else why it is not.

        `pinned` unless it was no child of ours, whose pid may be given away at any time.
        """
        return self._claim(f"{name} (pid {pid})", pid, pinned=pinned)

    async def sweep(self) -> None:
        """Claim what nobody living owns: of workers whose own parent reaped them, of strangers."""
        try:
            await self._sweep()
        except Exception as error:  # noqa: BLE001 - out of threads, say: the next one may do it
            self._note_failure("the sweep", _NOBODY, error)

    async def _sweep(self) -> None:
        unowned = await asyncio.to_thread(_find_unowned, self.directory, self.find_own())
        self._number = complete_claims(self.directory, self._number).number
        self._forget(self.findings.keys() - unowned - self.find_own())
        for pid in sorted(unowned):
            if pid not in self.find_own():  # it may have been given to a child of ours by now
                self._claim(f"pid {pid}", pid, pinned=False, orphan=True)
            await asyncio.sleep(0)

    def _claim(self, subject: str, pid: int, *, pinned: bool, orphan: bool = False) -> str | None:
        try:
            done = claim(self.directory, pid, pinned=pinned, after=self._number)
        except Exception as error:  # noqa: BLE001 - whatever it was, supervision goes on
            return self._note_failure(subject, pid, error)
        self._number = done.number
        self._forget({pid})
        if orphan:
            say_orphan(pid, done.shards)
        return None

    def _note_failure(self, subject: str, pid: int, error: Exception) -> str:
        actual = getattr(error, "strerror", None) or repr(error)
        former = self.findings.get(pid)
        if former is None or former.actual != actual:
            log.warning("%s: %s: %s", CLAIM_FAILED, subject, actual)
            self.findings[pid] = Finding(
                kind=CLAIM_FAILED,
                subject=subject,
                expected=f"the shards of the dead are moved to {self.directory}/.retired",
                actual=actual,
                hint=f"see that it can be written to; tried again every {SWEEP_SECONDS:g} s",
                since=former.since if former else time.monotonic(),
            )
            self.note_change()
        return actual

    def _forget(self, pids: set[int]) -> None:
        for pid in pids & self.findings.keys():
            del self.findings[pid]
            self.note_change()


def bury(directory: Path) -> None:
    """Claim for whom a crashed supervisor no longer could. Totals of a crash are not cleared."""
    try:
        complete_claims(directory)
        for pid in sorted(_find_unowned(directory, ())):
            say_orphan(pid, claim(directory, pid, pinned=False).shards)
    except OSError as error:  # the first sweep will try again
        log.warning("%s: %s", CLAIM_FAILED, error.strerror)


def _find_unowned(directory: Path, living: Collection[int]) -> set[int]:
    """Find whose shards nobody owns, but not where somebody else's may have come to lie.

    Raises OSError.
    """
    if refusal := find_clear_refusal(directory):
        raise PermissionError(errno.EPERM, f"{directory} is not looked through: {refusal}")
    return find_unowned(directory, living)


def say_orphan(pid: int, names: tuple[str, ...]) -> None:
    """Say whose shards were claimed though nobody had told us of its death."""
    if names:
        log.warning("orphan-shard: pid %d is dead: claimed %s", pid, " ".join(names))
