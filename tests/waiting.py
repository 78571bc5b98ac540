"""Wait for a condition with a deadline: the one way a test waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_for(condition: Callable[[], T], *, timeout_seconds: float = 10, what: str = "") -> T:
    """Call `condition` until it is truthy, and give that value back; fail at the deadline.

    Between two calls it rests as long as a call took: whoever asks by a process of its own leaves
    room for those it waits for.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(
                f"waited {timeout_seconds} s in vain for {what or condition}; last: {value!r}"
            )
        time.sleep(min(max(now - began, 0.01), 0.25))
