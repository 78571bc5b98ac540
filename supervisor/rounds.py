"""Periodic work, all of it at the beats of whoever is awake anyway: no wakeup of its own.

Who needs to look again and again is registered here, instead of sleeping for itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger("ptsup")


@dataclass(slots=True)
class _Round:
    work: Callable[[], Coroutine[Any, Any, None]]
    seconds: float
    began: float = -math.inf
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Rounds:
    """The periodic work of one supervisor. `beat_seconds` is how often it has a turn at best."""

    beat_seconds: float
    _rounds: list[_Round] = field(default_factory=list)

    def every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have work done at the first beat and then so often, at the beat that is nearest.

        It is left out while its last turn lasts; one that fails is told, and has its next turn.
        """
        self._rounds.append(_Round(work, seconds))

    def turn(self) -> None:
        """Begin what is due: to be called at each beat."""
        now = time.monotonic()
        for each in self._rounds:
            due = now - each.began >= each.seconds - self.beat_seconds / 2
            if due and (each.task is None or each.task.done()):
                each.began = now
                each.task = asyncio.get_running_loop().create_task(_do(each.work))

    def close(self) -> None:
        """Have nothing done any more."""
        for each in self._rounds:
            if each.task is not None:
                each.task.cancel()


async def _do(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except Exception:
        log.exception("periodic work failed")
