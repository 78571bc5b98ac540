"""The listening socket of the metrics port: how both metricsd and the supervisor open it.

It binds and listens or says why not, naming who holds the port; it serves nothing.
"""

from __future__ import annotations

import errno
import socket

from telemetry.holders import render_holder


class ListenError(Exception):
    """The port could not be had: why, what to do about it, and whether somebody has it."""

    def __init__(self, problem: str, hint: str, *, held: bool = False) -> None:
        super().__init__(problem)
        self.hint = hint
        self.held = held


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen, port 0 meaning any free one; raises ListenError.

    An IPv6 "any" takes IPv4 along. Connections of a former run in TIME_WAIT are no holder.
    """
    problem = f"cannot listen on {host}:{port}"
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(
            (host, port),
            family=family,
            backlog=socket.SOMAXCONN,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"{problem}: the port is held by {render_holder(port)}",
                "stop that process, or choose another port with --port",
                held=True,
            ) from error
        reason = error.strerror if isinstance(error, OSError) else "not an address"
        raise ListenError(
            f"{problem}: {reason}",
            "choose an address of this machine with --host, and a port from 1024 up",
        ) from error
