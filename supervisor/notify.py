"""Tells systemd (or whoever has set NOTIFY_SOCKET) that we are up, alive, stopping: sd_notify(3).

A datagram each, from the supervisor alone; without that variable nothing, and never an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final

_SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"


def notify(message: str) -> None:
    """Send one message, `READY=1` say, if anybody wants to know."""
    address = os.environ.get(_SOCKET_VARIABLE, "")
    if address[:1] not in {"/", "@"}:
        return
    if address.startswith("@"):  # a name of Linux's abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # noqa: FBT003 - nobody who does not listen holds us up
        sender.sendto(message.encode(), address)


async def feed_watchdog() -> None:
    """Say that we are alive, twice in each interval that the watchdog allows; else do nothing.

    In the loop's own thread: who does not come round is not alive.
    """
    seconds = find_watchdog_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 2)


def find_watchdog_seconds() -> float | None:
    """Find how long the watchdog waits for a word of ours; None when there is none for us."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None
