"""The port lock: a listening socket that is ours before anything is spawned.

It stays open while metricsd restarts, so a scrape waits in the backlog instead of failing.
After a crash metricsd has it alone, and gives it back.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from supervisor.errors import PortHeldError, UsageError
from telemetry.listen import ListenError, listen

if TYPE_CHECKING:
    from pathlib import Path

# A metricsd that has not given the socket back by then hangs.
HANDBACK_SECONDS: Final = 2.0
_ASK_AGAIN_SECONDS: Final = 0.02


def take_port(host: str, port: int) -> socket.socket:
    """Bind and listen on a TCP port; raises PortHeldError (naming the holder) or UsageError."""
    try:
        return listen(host, port)
    except ListenError as error:
        kind = PortHeldError if error.held else UsageError
        raise kind(str(error), error.hint) from None


def take_back(path: Path, port: int) -> socket.socket | None:
    """Get the listening socket back from a living metricsd; None when it does not give it."""
    deadline = time.monotonic() + HANDBACK_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        listener = _ask_back(path, left)
        if listener is not None:
            if listener.getsockname()[1] == port:
                return listener
            listener.close()
            return None
        time.sleep(_ASK_AGAIN_SECONDS)  # it may have been spawned a moment ago
    return None


def _ask_back(path: Path, timeout_seconds: float) -> socket.socket | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(str(path))
            _, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        except OSError:
            return None
    if not descriptors:
        return None
    listener = socket.socket(fileno=descriptors[0])
    listener.set_inheritable(False)
    return listener
