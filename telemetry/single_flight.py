"""Many callers, one costly run; never one that began before the call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Lets callers share one run of a costly function, never a run that began before the call.

    Runs follow one another. Who arrives during a run waits for the next one; all who arrived
    meanwhile share it. A run that raises is shared with nobody: the next caller runs anew.
    """

    def __init__(self, function: Callable[[], T], turn: threading.Lock | None = None) -> None:
        self._function = function
        self._turn = turn or threading.Lock()
        self._begun = 0  # counts up as a run begins, inside the turn
        self._finished: tuple[int, T] | None = None

    def call(self) -> T:
        """Give the value of a run that began after this call did."""
        begun_before = self._begun
        with self._turn:
            if self._finished is not None and self._finished[0] > begun_before:
                return self._finished[1]
            self._begun += 1
            value = self._function()
            self._finished = (self._begun, value)
            return value
