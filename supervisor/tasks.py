"""What runs beside the loop: none of it fails in silence, and all of it ends with the loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger("ptsup")


@dataclass(slots=True)
class Tasks:
    """Coroutines that run; `failed` is told of each that did not end well."""

    failed: Callable[[BaseException], None]
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one more."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            log.error("a task failed", exc_info=failure)
            self.failed(failure)

    def end(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
