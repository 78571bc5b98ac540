"""An event loop that beats while it waits.

What is looked at every second mostly tells nothing new. So it is looked at within the wait, and
only what gives the loop something to do ends it: to turn a loop for nothing costs as much again.
"""

from __future__ import annotations

import asyncio
import math
import select
import selectors
import time
from typing import TYPE_CHECKING, TypeVarTuple

from supervisor import kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

Ts = TypeVarTuple("Ts")


class PulseLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that calls somebody in the midst of its waits for I/O, in its own thread."""

    def __init__(self) -> None:
        self._wait = _Wait()
        super().__init__(self._wait)

    def start_beats(self, at: float, seconds: float, beat: Callable[[float], object]) -> None:
        """Call `beat` at a moment, with the moment it is then, and from there on so often.

        Moments are monotonic seconds. It must not raise.
        """
        self._wait.beat, self._wait.at, self._wait.seconds = beat, at, seconds

    def stop_beats(self) -> None:
        """Call it no more."""
        self._wait.at = math.inf

    # Whatever wakes a task or sets a timer comes by here.

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Do as any loop does, and wait no longer."""
        self._wait.over = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Do as any loop does, and wait anew."""
        self._wait.over = True
        return super().call_at(when, callback, *args, context=context)


class _Wait(selectors.DefaultSelector):
    """The wait for I/O, with beats in between, until one makes it be `over`."""

    def __init__(self) -> None:
        super().__init__()
        # To ask whether any is ready takes less than to ask which.
        self._ready = select.poll() if kernel.POLLS_SELECTORS else None
        if self._ready is not None:
            self._ready.register(self.fileno(), select.POLLIN)
        self.at = self.seconds = math.inf
        self.beat: Callable[[float], object] = float
        self.over = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        now = time.monotonic()
        end = math.inf if timeout is None else now + timeout
        self.over = False
        while True:
            if now >= self.at:
                self.at = now + self.seconds
                self.beat(now)
                now = time.monotonic()  # what is waited for beside does not wait for a beat, too
                if self.over:
                    end = now
            until = min(end, self.at)
            left = None if until == math.inf else max(0.0, until - now)
            if self._ready is None:
                found = super().select(left)
            elif self._ready.poll(None if left is None else left * 1000):
                found = super().select(0)
            else:
                found = []
            if found or (now := time.monotonic()) >= end:
                return found
