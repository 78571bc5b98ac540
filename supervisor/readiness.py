"""Asks those who have a readiness whether they are ready: a port that accepts, a page that answers.

It waits for nobody and decides nothing: who is ready is posted. When nobody is starting, it sleeps.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor.config.values import parse_url
from supervisor.events import Ready
from supervisor.probe import probe_page, probe_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config import Readiness
    from supervisor.events import Event
    from supervisor.process import Process

# How often each is asked, and how long it may take to answer once.
ASK_SECONDS: Final = 0.1
ANSWER_SECONDS: Final = 2.0
LOOPBACK: Final = "127.0.0.1"


@dataclass(slots=True)
class ReadinessProber:
    """Watches whoever `find` says is starting, all at once."""

    find: Callable[[], list[tuple[Process, Readiness]]]
    post: Callable[[Event], None]
    _spawned: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Look: somebody was spawned."""
        self._spawned.set()

    async def run(self) -> None:
        """Ask for ever, whenever somebody is starting."""
        asking: dict[tuple[str, int, Readiness], asyncio.Task[None]] = {}
        while True:
            # A reload may change what it is asked.
            waiting = {(p.name, p.incarnation, ready): (p, ready) for p, ready in self.find()}
            for key in asking.keys() - waiting.keys():
                asking.pop(key).cancel()
            for key in waiting.keys() - asking.keys():
                asking[key] = asyncio.create_task(self._ask(*waiting[key]))
            if asking:
                await asyncio.sleep(ASK_SECONDS)
            else:
                self._spawned.clear()
                await self._spawned.wait()

    async def _ask(self, process: Process, ready: Readiness) -> None:
        """Ask one incarnation until it is ready."""
        ready_now = await _is_ready(ready)
        while not ready_now:
            await asyncio.sleep(ASK_SECONDS)
            ready_now = await _is_ready(ready)
        self.post(Ready(process.name, process.incarnation))


async def _is_ready(ready: Readiness) -> bool:
    if ready.port is not None:
        return await probe_port(LOOPBACK, ready.port, ANSWER_SECONDS)
    found = parse_url(ready.http or "")
    return found is not None and await probe_page(*found, ANSWER_SECONDS)
