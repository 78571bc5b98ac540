"""What systemd is told, where it asks to be: on a socket of the file system or an abstract one."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor.notify import feed_watchdog, find_watchdog_seconds, notify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.settimeout(5)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return made


def test_a_message_is_a_datagram(manager: socket.socket) -> None:
    with manager:
        notify("READY=1")
        assert manager.recv(64) == b"READY=1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_an_at_sign_is_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ptsup-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        abstract.settimeout(5)
        notify("STOPPING=1")
        assert abstract.recv(64) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@nobody-there"])
def test_who_does_not_listen_costs_nothing(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_the_watchdog_is_fed_twice_in_each_interval(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert find_watchdog_seconds() == 0.2

    async def feed() -> None:
        task = asyncio.get_running_loop().create_task(feed_watchdog())
        manager.setblocking(False)
        for _ in range(3):
            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(manager, 64) == b"WATCHDOG=1"
        task.cancel()

    with manager:
        asyncio.run(feed())


def test_the_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert find_watchdog_seconds() is None
    monkeypatch.delenv("WATCHDOG_PID")
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert find_watchdog_seconds() is None
    asyncio.run(feed_watchdog())  # ends at once
