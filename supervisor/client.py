"""The other end of the control socket: one request, one answer, blocking."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, Final

from supervisor import kernel
from supervisor.control import Request, parse_response, render_request
from supervisor.errors import NothingRunsError, PtsupError, SupervisorDeadError

if TYPE_CHECKING:
    from supervisor.rundir import RunDir

# The supervisor answers such questions at once, unless it is stopped or gone.
ANSWER_LIMIT_SECONDS: Final = 10.0
# From its kill to its end, or from its start to its socket, a supervisor takes less.
LOCK_LIMIT_SECONDS: Final = 2.0


def connect(run_dir: RunDir) -> socket.socket | None:
    """Connect to the supervisor of a run directory; None when none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_LIMIT_SECONDS)
    try:
        connection.connect(str(run_dir.socket))
    except OSError:
        connection.close()
        return None
    # A child that a supervisor was spawning when it was killed has its socket until the exec.
    pid = kernel.read_listener_pid(connection)
    if pid and kernel.read_identity(pid) is None:
        connection.close()
        return None
    return connection


def lock_or_find(run_dir: RunDir) -> bool:
    """Take the lock; False when a supervisor has it that answers, or is there at least.

    Who has it for a moment is waited for: a supervisor just killed, a child it had just forked,
    one that comes up and does not answer yet.
    """
    deadline = time.monotonic() + LOCK_LIMIT_SECONDS
    while not run_dir.lock():
        connection = connect(run_dir)
        if connection is not None:
            connection.close()
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ask(
    connection: socket.socket,
    request: Request,
    timeout_seconds: float | None = ANSWER_LIMIT_SECONDS,
) -> dict[str, Any]:
    """Send a request and wait for its result; raises the PtsupError it is answered with."""
    connection.settimeout(timeout_seconds)
    with connection, connection.makefile("rb") as answers:
        try:
            connection.sendall(render_request(request))
            line = answers.readline()
        except OSError as error:
            raise SupervisorDeadError(
                f"cannot reach the supervisor: {error}", "see `ptsup status`"
            ) from None
    if not line:
        raise SupervisorDeadError(
            "the supervisor ended before it answered", "see `ptsup status` and `ptsup logs`"
        )
    return parse_response(line)


def ask_running(run_dir: RunDir, request: Request) -> dict[str, Any]:
    """Ask a supervisor that has to be there; the answer may take as long as it takes."""
    connection = connect(run_dir)
    if connection is None:
        raise find_absence(run_dir)
    return ask(connection, request, None)


def build_silence(pid: int | None) -> SupervisorDeadError:
    """Say that a supervisor lives but does not answer."""
    return SupervisorDeadError(
        f"the supervisor (pid {pid or 'unknown'}) is there but does not answer",
        f"`kill {pid}` stops it in order" if pid else "try again in a moment",
    )


def find_absence(run_dir: RunDir) -> PtsupError:
    """Say why nobody answers: nothing runs, or the supervisor is dead."""
    if run_dir.read_states():
        return SupervisorDeadError(
            f"the supervisor of {run_dir.path} is dead",
            "`ptsup start` goes on with what it left; `ptsup stop` ends that",
        )
    return NothingRunsError(f"nothing runs in {run_dir.path}", "`ptsup start` starts it")


def wait_until_gone(pid: int, identity: str | None, timeout_seconds: float) -> bool:
    """Wait for a process that is not our child to be gone."""
    deadline = time.monotonic() + timeout_seconds
    while kernel.read_identity(pid) == identity is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
