"""When logs are rotated: looked at while somebody writes to one, and at rest while nobody does.

A log that grows is looked at again before it can be too long, at its present rate. When none
grows any more, the next write is told by the kernel. What takes time runs in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.copies import list_shelves
from supervisor.drift.facts import Obstacle, Unrotatable
from supervisor.rotation import find_refusal, rotate
from supervisor.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, MutableMapping
    from pathlib import Path

    from supervisor.config import LogLimits

# How long to the next look while something is written. Between two looks even a log that was
# idle at the first of them may grow at any rate.
_LONGEST_SECONDS: Final = 1.0
_SHORTEST_SECONDS: Final = 0.05
# After a write that ended a rest: who says one thing, often says more.
_AWAKE_SECONDS: Final = 0.25
# One that cannot be rotated now is tried again after this.
_RETRY_SECONDS: Final = 5.0
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT}


@dataclass(slots=True)
class _Log:
    """What is known of one log: where it begins and ends, and how fast it grows."""

    front: int = 0
    size: int = -1
    looked_at: float = 0.0
    rate: float = 0.0
    retry_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class Rotator:
    """Rotates the logs of one supervisor. What it cannot goes into `failed`, by name.

    `note_change` is called when something else does.
    """

    directory: Path
    find_logs: Callable[[], Mapping[str, LogLimits]]  # by the name of the process
    find_writing: Callable[[], Collection[str]]  # who lives
    failed: MutableMapping[str, Unrotatable]
    note_change: Callable[[], None]
    _logs: dict[str, _Log] = field(default_factory=dict)
    _trouble: Trouble = field(
        default_factory=lambda: Trouble("the rotation of logs failed, and is tried again")
    )

    async def run(self) -> None:
        """Keep all logs within their limits for ever; that this fails ends no supervision."""
        while True:
            try:
                await self._keep()
            except Exception as error:  # noqa: BLE001 - out of threads, say: later it may do
                self._trouble.note(error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _keep(self) -> None:
        watch = kernel.watch_changes()
        try:
            await self._settle()
            while True:
                pause = await self._look()
                self._trouble.clear()
                if pause is None and watch is not None and watch.arm(self.directory):
                    pause = await self._look()  # what was written before it was armed
                    if pause is None:
                        await _readable(watch)
                        pause = _AWAKE_SECONDS
                await asyncio.sleep(_LONGEST_SECONDS if pause is None else pause)
        finally:
            if watch is not None:
                watch.close()

    async def _settle(self) -> None:
        """Finish what a supervisor that died has begun; first try whether it can be done here."""
        while (refusal := await asyncio.to_thread(self._find_refusal)) is not None:
            self._fail("logs", self.directory, *refusal)
            if refusal[0] is Obstacle.NO_HOLES:
                await asyncio.Event().wait()  # for ever: a file system does not change
            await asyncio.sleep(_RETRY_SECONDS)
        self._succeed("logs")
        shelves = await asyncio.to_thread(list_shelves, self.directory)
        for name, limits in self.find_logs().items():
            if f"{name}.log" in shelves:
                await self._rotate(name, limits, self._logs.setdefault(name, _Log()))

    def _find_refusal(self) -> tuple[Obstacle, str] | None:
        try:
            reason = find_refusal(self.directory)
        except OSError as error:
            return _find_obstacle(error), f"cannot try whether it has holes: {error.strerror}"
        return None if reason is None else (Obstacle.NO_HOLES, reason)

    # -- Looking ----------------------------------------------------------------------------------

    async def _look(self) -> float | None:
        """Look at each log and rotate what is too long; seconds to the next look, None at rest."""
        pauses = []
        logs = self.find_logs()
        for gone in self.failed.keys() - logs.keys():
            self._succeed(gone)
        for name, limits in logs.items():
            seen = self._logs.setdefault(name, _Log())
            grown = self._measure(name, seen)
            now = time.monotonic()
            while limits.max_bytes and seen.size - seen.front > limits.max_bytes:
                if now < seen.retry_at:
                    pauses.append(_RETRY_SECONDS)
                    break
                await self._rotate(name, limits, seen)
                if name not in self.find_logs():  # forgotten meanwhile
                    self._succeed(name)
                    break
                self._measure(name, seen)
            if grown:
                room = max(0, limits.max_bytes - (seen.size - seen.front))
                due = room / seen.rate if limits.max_bytes and seen.rate else _LONGEST_SECONDS
                pauses.append(min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, due)))
        return min(pauses, default=None)

    def _measure(self, name: str, seen: _Log) -> bool:
        """Measure how long a log is and how fast it grows; whether it has changed."""
        now = time.monotonic()
        try:
            # No Path for each: many logs are looked at in every second in which one is written to.
            size = os.stat(f"{self.directory}/{name}.log").st_size  # noqa: PTH116
        except OSError:
            if name in self.find_writing():  # who lives was started with a log
                reason = "it was removed; what is still written to it is lost"
                self._fail(name, self.directory / f"{name}.log", Obstacle.REMOVED, reason)
            else:
                self._succeed(name)
            seen.front, seen.size = 0, -1
            return False
        if seen.size < 0:
            self._succeed(name)
        elif now > seen.looked_at:
            seen.rate = max(0.0, (size - seen.size) / (now - seen.looked_at))
        if size < seen.front:  # somebody emptied it
            seen.front = 0
        changed = size != seen.size
        seen.size, seen.looked_at = size, now
        return changed

    async def _rotate(self, name: str, limits: LogLimits, seen: _Log) -> None:
        path = self.directory / f"{name}.log"
        try:
            seen.front = await asyncio.to_thread(rotate, path, limits)
        except FileNotFoundError:
            seen.front, seen.size = 0, -1
        except OSError as error:
            seen.retry_at = time.monotonic() + _RETRY_SECONDS
            reason = f"cannot rotate it: {error.strerror or error}"
            self._fail(name, path, _find_obstacle(error), reason)
        else:
            self._succeed(name)

    # -- Telling ----------------------------------------------------------------------------------

    def _fail(self, name: str, path: Path, obstacle: Obstacle, reason: str) -> None:
        former = self.failed.get(name)
        if former is None or former.reason != reason:
            at = time.monotonic() if former is None else former.at
            self.failed[name] = Unrotatable(name, str(path), obstacle, reason, at)
            self.note_change()

    def _succeed(self, name: str) -> None:
        if self.failed.pop(name, None) is not None:
            self.note_change()


def _find_obstacle(error: OSError) -> Obstacle:
    return Obstacle.NO_SPACE if error.errno in _NO_SPACE else Obstacle.OTHER


async def _readable(watch: kernel.ChangeWatch) -> None:
    """Wait until a watch has fired."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_reader(watch, told.set)
    try:
        await told.wait()
    finally:
        loop.remove_reader(watch)
