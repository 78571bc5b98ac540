"""Does something as another user, in a process of its own; only root can."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534

needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="needs a second user: run the tests as root"
)


def as_another_user(do: Callable[[], str]) -> str:
    """Give back what `do` gives there, or the name of the exception it ended with."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = do()
        except BaseException as error:  # noqa: BLE001 - told, whatever it is
            answer = type(error).__name__
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        found = answers.read().decode()
    os.waitpid(pid, 0)
    return found
