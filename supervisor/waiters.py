"""Who waits for the fleet to be otherwise: asked once a turn, when all of it is written down."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Waiters:
    """Conditions, and who goes on when they are fulfilled."""

    _waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(default_factory=list)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is fulfilled, now or after some turn."""
        if condition():
            return
        waiter = (condition, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter[1]
        finally:
            self._waiting.remove(waiter)

    def tell(self) -> None:
        """Let go on whose condition is fulfilled."""
        for condition, waiter in self._waiting:
            if not waiter.done() and condition():
                waiter.set_result(None)
