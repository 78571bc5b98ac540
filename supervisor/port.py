"""The port lock: a listening socket that is ours before anything is spawned.

It stays open while metricsd restarts, so a scrape waits in the backlog instead of failing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.errors import PortHeldError, UsageError
from telemetry.listen import ListenError, listen

if TYPE_CHECKING:
    import socket


def take_port(host: str, port: int) -> socket.socket:
    """Bind and listen on a TCP port; raises PortHeldError (naming the holder) or UsageError."""
    try:
        return listen(host, port)
    except ListenError as error:
        kind = PortHeldError if error.held else UsageError
        raise kind(str(error), error.hint) from None
