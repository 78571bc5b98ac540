"""Serves metricsd's HTTP side around a collector whose page never comes; prints its port.

It ends when its stdin does.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

from telemetry.answers import Page
from telemetry.server import Application, Server


class Stuck:
    """A collector whose page does not come."""

    def render(self, accept_header: str) -> Page:
        threading.Event().wait()
        return Page("text/plain", accept_header.encode())

    def describe(self) -> dict[str, Any]:
        return {}

    def fold(self) -> bool:
        return False

    def look(self, age_seconds: float) -> None:
        pass


listener = socket.create_server(("127.0.0.1", 0))
Server(Application(Stuck(), {}), listener, connection_limit=100).start()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
os._exit(0)
