"""What has become of a process, in a word or a line for a person.

Pure.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

from supervisor.fleet import find_reason
from supervisor.process import Ending, Process, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from supervisor.fleet import Fleet

_SHOWN_STOPPING: Final = 3


def describe(fleet: Fleet, process: Process) -> dict[str, Any]:
    """Build what the answer to a request says of a session."""
    return {
        "name": process.name,
        "state": str(process.state),
        "pid": process.pid,
        "incarnation": process.incarnation,
        "returncode": process.returncode,
        "exit": find_exit(process),
        "reason": find_reason(fleet, process),
    }


def render_process(described: Mapping[str, Any]) -> str:
    """Say in a line what a process has become: `paper: running (pid 7)`."""
    line = f"{described['name']}: {described['state']}"
    if described["state"] == State.RUNNING:
        line += f" (pid {described['pid']})"
    elif described["exit"] is not None:
        line += f" (exit {described['exit']})"
    return f"{line}: {described['reason']}" if described["reason"] else line


def is_news(process: Process) -> bool:
    """Whether a person wants to read of a new state.

    Not that one is starting, for it will be running in a moment; nor that one is stopping
    when nobody asked for it, which only says that its end is being tidied up.
    """
    if process.state is State.STOPPING:
        return process.ending is Ending.ASKED
    return process.state is not State.STARTING


def find_exit(process: Process) -> str | None:
    """Say in a word how the last incarnation ended; None while it runs or before the first."""
    if process.pid is not None and not process.dead:
        return None
    if process.started_at is None:  # it could not be spawned, or never was
        return None
    return render_exit(process.returncode)


def render_exit(returncode: int | None) -> str:
    """Write an exit status as a word: 0, 1, SIGKILL, unknown."""
    if returncode is None:
        return "unknown"
    if returncode >= 0:
        return str(returncode)
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name of its own
        return f"SIG{-returncode}"


def render_stopping(left: Sequence[tuple[str, float]]) -> str:
    """Say in a line who is still stopping, and how many seconds each has before KILL."""
    if not left:
        return ""
    shown = [f"{name} ({max(0, seconds):.0f} s)" for name, seconds in left[:_SHOWN_STOPPING]]
    if len(left) > len(shown):
        shown.append(f"{len(left) - len(shown)} more")
    return f"stopping, KILL in: {', '.join(shown)}"


def find_stopping(status: Mapping[str, Any], now_after_seconds: float) -> list[tuple[str, float]]:
    """Find who is stopping in a document that was read `now_after_seconds` ago."""
    return [
        (session["name"], session["deadline_seconds"] - now_after_seconds)
        for session in status["sessions"]
        if session["state"] == State.STOPPING and session["deadline_seconds"] is not None
    ]
