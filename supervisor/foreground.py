"""What a start in the foreground does: shows output as it comes, passes Ctrl-C on.

The first Ctrl-C (or TERM) stops in order, the second at once. What is shown is shown from a
thread of its own: a terminal on hold must not hold up the supervisor.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor import client
from supervisor.control import Request
from supervisor.errors import PtsupError
from supervisor.follow import Follow
from telemetry.log_lines import list_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.admission import Admitted
    from supervisor.loop import Loop
    from supervisor.rundir import RunDir

# How often a countdown asks the supervisor anew.
FOOTER_SECONDS: Final = 1.0


def run(loop: Loop, sessions: Sequence[Admitted]) -> int:
    """Be the supervisor, and show what its sessions say; give back the exit code."""
    from supervisor import launch  # noqa: PLC0415 - a client needs nothing of a supervisor
    from supervisor.words import render_stopping  # noqa: PLC0415 - launch has it already

    follow = Follow(
        find_names=lambda: loop.fleet.sessions,
        find_log=loop.run_dir.log,
        find_footer=lambda: render_stopping(loop.find_stopping()),
    )
    # From here on alone, of those that were adopted too.
    follow.begin({*loop.fleet.sessions, *(member.spec.name for member in sessions)})
    handler = logging.Handler()
    handler.emit = lambda record: follow.say(*list_lines(record))  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    with follow.beside():
        code = launch.run(loop, sessions)
    if follow.is_stuck:  # nobody reads our output: to flush it would wait for ever
        os._exit(code)
    return code


def attend(run_dir: RunDir, names: list[str]) -> list[dict[str, Any]]:
    """Show what these sessions of another supervisor say until they have ended.

    Ctrl-C (or TERM) stops them and nobody else. Gives back how they ended.
    """
    # Both, as the foreground supervisor does it: a script's `&` would leave SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    wishes = [
        Request("wait", {"names": names}),
        Request("stop", {"names": names}),
        Request("stop", {"names": names, "timeout_seconds": 0}),
    ]
    follow = Follow(lambda: names, run_dir.log, _Stopping(run_dir).render)
    with follow.beside():
        for wish in wishes:
            with contextlib.suppress(KeyboardInterrupt):
                sessions: list[dict[str, Any]] = client.ask_running(run_dir, wish)["sessions"]
                return sessions
    raise PtsupError("interrupted")


@contextlib.contextmanager
def countdown(run_dir: RunDir) -> Iterator[None]:
    """Show on a terminal who is still stopping, while the caller waits."""
    with Follow(tuple, run_dir.log, _Stopping(run_dir).render).beside():
        yield


@dataclass(slots=True)
class _Stopping:
    """The footer of a client: asks the supervisor now and then who is still stopping."""

    run_dir: RunDir
    document: dict[str, Any] = field(default_factory=lambda: {"sessions": []})
    asked_at: float = -math.inf

    def render(self) -> str:
        # Only a terminal asks for it, and it brings the whole of the core.
        from supervisor.words import find_stopping, render_stopping  # noqa: PLC0415

        now = time.monotonic()
        if now - self.asked_at >= FOOTER_SECONDS:
            self.asked_at = now
            connection = client.connect(self.run_dir)
            with contextlib.suppress(PtsupError):
                if connection is not None:
                    self.document = client.ask(connection, Request("status"))
        return render_stopping(find_stopping(self.document, now - self.asked_at))
