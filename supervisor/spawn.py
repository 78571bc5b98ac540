"""The only process starter. It starts, signals groups, peeks and reaps; it decides nothing.

A Popen is kept, and none of its own methods called, until the reap: each of them would reap
a zombie whose shards still have to be claimed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.errors import UsageError
from supervisor.logs import open_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# The machine is short of something now; the same command may start later.
_PASSING: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})


class SpawnError(Exception):
    """The child could not be started; `final` when trying again cannot help."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


@dataclass(frozen=True, slots=True)
class Child:
    """One incarnation of a process, ours until it is reaped."""

    name: str
    incarnation: int
    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The leader's pid, which is its group's number too."""
        return self.popen.pid


def check_command(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
    """Refuse, before anything is started, a command that could not be; raises UsageError."""
    program = command[0]
    if not cwd.is_dir():
        raise UsageError(f"no such working directory: {cwd}")
    if "/" in program:
        path = cwd / program
        if not path.exists():
            raise UsageError(f"no such program: {program}", f"looked for {path}")
        if path.is_dir() or not os.access(path, os.X_OK):
            raise UsageError(f"not an executable program: {program}", f"try: chmod +x {path}")
    elif shutil.which(program, path=environment.get("PATH", os.defpath)) is None:
        raise UsageError(f"no such program: {program}", "it is not on PATH; give its whole path")


def spawn(
    name: str,
    incarnation: int,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    log: Path,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a child in a session and group of its own, its output appended to `log`.

    A file, not a pipe: a dead supervisor can't end it with SIGPIPE. Raises SpawnError.
    """
    try:
        opened = open_log(log)
    except OSError as error:
        raise SpawnError(f"cannot open {log}: {error.strerror}", final=False) from error
    try:
        with opened as output:
            popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
            )
    except OSError as error:
        reason = f"cannot start {command[0]!r}: {error.strerror or error}"
        raise SpawnError(reason, final=error.errno not in _PASSING) from error
    except ValueError as error:  # a NUL, or a character no file system encoding has
        raise SpawnError(f"cannot start {command[0]!r}: {error}", final=True) from error
    return Child(name, incarnation, popen)


def signal_group(child: Child, number: int) -> None:
    """Send a signal to the child's whole group, which its unreaped leader pins."""
    # Nobody but the zombie is left (macOS says EPERM then), or a member changed its user.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
        if number == signal.SIGTERM:  # one that is stopped would not notice
            os.killpg(child.pid, signal.SIGCONT)


def peek(child: Child) -> kernel.Exit | None:
    """Look whether the leader is dead, leaving the zombie; None while it lives."""
    return kernel.peek(child.pid)


def reap(child: Child) -> int | None:
    """Give a dead leader's pid back to the kernel; None when somebody else took its status."""
    try:
        _, status = os.waitpid(child.pid, 0)
    except ChildProcessError:
        child.popen.returncode = 0  # for Popen alone: nothing is left to wait for
        return None
    child.popen.returncode = os.waitstatus_to_exitcode(status)
    return child.popen.returncode


def signal_orphan(pid: int, number: int) -> None:
    """Signal an orphan that became our child, which pins its pid until we reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def reap_stranger(pid: int) -> None:
    """Reap a dead orphan that became our child; its status is nobody's concern."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
