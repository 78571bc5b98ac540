"""Periodic work, all of it on one beat: whatever is due then is done, at one wakeup for all.

Who needs to look again and again is registered here, instead of sleeping for itself.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger("ptsup")

BEAT_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Round:
    work: Callable[[], Coroutine[Any, Any, None]]
    beats: int
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Rounds:
    """The periodic work of one supervisor."""

    beat_seconds: float = BEAT_SECONDS
    _rounds: list[_Round] = field(default_factory=list)

    def every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have work done at the first beat and then so often, rounded to beats.

        It is left out while its last turn lasts; one that fails is told, and has its next turn.
        """
        self._rounds.append(_Round(work, max(1, round(seconds / self.beat_seconds))))

    async def run(self) -> None:
        """Keep the beat for ever."""
        beat = 0
        try:
            while True:
                for each in self._rounds:
                    if beat % each.beats == 0 and (each.task is None or each.task.done()):
                        each.task = asyncio.create_task(_do(each.work))
                await asyncio.sleep(self.beat_seconds)
                beat += 1
        finally:
            for each in self._rounds:
                if each.task is not None:
                    each.task.cancel()


async def _do(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except Exception:
        log.exception("periodic work failed")
