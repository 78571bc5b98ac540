"""Periodic work, all of it at the beats of whoever is awake anyway: no wakeup of its own.

Who needs to look again and again is registered here, instead of sleeping for itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Work: TypeAlias = "Callable[[], Coroutine[Any, Any, None] | None]"

log = logging.getLogger("ptsup")


@dataclass(slots=True)
class _Round:
    work: Work
    seconds: float
    began: float = -math.inf
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Rounds:
    """The periodic work of one supervisor. `beat_seconds` is how often it has a turn at best."""

    beat_seconds: float
    _due_at: float = -math.inf  # nothing is due before
    _rounds: list[_Round] = field(default_factory=list)

    def every(self, seconds: float, work: Work) -> None:
        """Have work done at the first beat and then so often, at the beat that is nearest.

        What of it takes time it gives back, to be done beside; it is left out while that lasts.
        One that fails is told, and has its next turn.
        """
        self._rounds.append(_Round(work, seconds))
        self._due_at = -math.inf

    def turn(self, now: float) -> None:
        """Begin what is due by now, in monotonic seconds: to be called at each beat."""
        if now < self._due_at:
            return
        for each in self._rounds:
            if now >= self._find_due(each) and (each.task is None or each.task.done()):
                each.began = now
                each.task = _begin(each.work)
        self._due_at = min(map(self._find_due, self._rounds), default=math.inf)

    def _find_due(self, each: _Round) -> float:
        return each.began + each.seconds - self.beat_seconds / 2

    def close(self) -> None:
        """Have nothing done any more."""
        for each in self._rounds:
            if each.task is not None:
                each.task.cancel()


def _begin(work: Work) -> asyncio.Task[None] | None:
    try:
        rest = work()
    except Exception:
        log.exception("periodic work failed")
        return None
    return None if rest is None else asyncio.get_running_loop().create_task(_do(rest))


async def _do(rest: Coroutine[Any, Any, None]) -> None:
    try:
        await rest
    except Exception:
        log.exception("periodic work failed")
