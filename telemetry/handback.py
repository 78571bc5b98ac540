"""Gives metricsd's listening socket back to the supervisor that comes after a crash.

It answers whoever runs as this user (or root) on a private unix socket, each connection once,
and keeps listening itself: afterwards both hold the port. It knows nothing of the page.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

from telemetry.processes import read_peer_uid

if TYPE_CHECKING:
    from pathlib import Path

_logger = logging.getLogger("telemetry.metricsd")

# What goes with the descriptor: a message must have a byte at least.
GREETING: Final = b"listener"
# Who has connected gets its answer at once; only a peer that is stopped can hold it up.
_SEND_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 1.0


def offer(path: Path, listener: socket.socket) -> None:
    """Answer on `path` from now on, in a thread; a socket file of a dead metricsd is replaced.

    Where that cannot be, a line says so and metricsd serves on: only a takeover needs it.
    """
    try:
        door = _open(path)
    except OSError as error:
        _logger.warning("cannot offer the listening socket at %s: %s", path, error.strerror)
        return
    threading.Thread(target=_serve, args=(door, listener), name="handback", daemon=True).start()


def _open(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(str(path))  # in a directory that only this user may enter
        path.chmod(0o600)
        door.listen()
    except OSError:
        door.close()
        raise
    return door


def _serve(door: socket.socket, listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = door.accept()
        except OSError as error:  # out of descriptors, say; whoever asks is still there later
            _logger.warning("cannot give the listening socket back: %s", error.strerror)
            time.sleep(_AGAIN_SECONDS)
            continue
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_SEND_SECONDS)
            if read_peer_uid(connection) in {os.getuid(), 0}:
                socket.send_fds(connection, [GREETING], [listener.fileno()])
