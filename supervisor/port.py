"""The port lock: a listening socket that is ours before anything is spawned.

It stays open while metricsd restarts, so a scrape waits in the backlog instead of failing.
"""

from __future__ import annotations

import errno
import socket

from supervisor.errors import PortHeldError, UsageError
from telemetry.holders import render_holder


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen on a TCP port; raises PortHeldError (naming the holder) or UsageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"cannot listen on {host!r}: {error}", "give an address of this machine"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections of a former run in TIME_WAIT are no holder; a listening socket still is.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortHeldError(
                f"cannot listen on {host}:{port}: held by {render_holder(port)}",
                "stop that process, or choose another port with --port",
            ) from None
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            "give an address of this machine, and a port this user may bind",
        ) from None
    return listener
