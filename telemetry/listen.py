"""The listening socket of the metrics port: how both metricsd and the supervisor open it.

It binds and listens or says why not, naming who holds the port; it serves nothing.
"""

from __future__ import annotations

import errno
import os
import socket

from telemetry.holders import render_holder
from telemetry.mode import render_address


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
    problem = f"cannot listen on {render_address(host, port)}"
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
        raise ListenError(
            f"{problem}: {_find_reason(error)}",
            "choose an address of this machine with --host, and a port this user may bind",
        ) from error


def _find_reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "not an address"
    if isinstance(error, socket.gaierror):
        return error.strerror or "not an address"
    # create_server puts the address into strerror, in a form of its own.
    return os.strerror(error.errno or 0)
