"""What fifty open pages cost the supervisor, beside none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from stack import SHADOW, Stack, find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SESSIONS = 10
PAGES = 50
SECONDS = 20


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    flags = [word for number in range(SESSIONS) for word in ("-s", f"s{number}={SHADOW} --loop")]
    made.start(*flags)
    yield made
    made.close()


async def watch(port: int, pages: int, supervisor: psutil.Process) -> tuple[float, int]:
    """Keep that many pages open for a while: the supervisor's CPU, % of a core, and the events."""
    events = 0

    async def read() -> None:
        nonlocal events
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                events += line == b"event: status\n"
        finally:
            writer.close()

    tasks = [asyncio.create_task(read()) for _ in range(pages)]
    await asyncio.sleep(2)
    before, seen = sum(supervisor.cpu_times()[:2]), events
    await asyncio.sleep(SECONDS)
    used = sum(supervisor.cpu_times()[:2]) - before
    for task in tasks:
        task.cancel()
    return 100 * used / SECONDS, events - seen


def test_fifty_pages_cost_the_supervisor_little(stack: Stack) -> None:
    port = find_free_port()
    command = [sys.executable, "-m", "supervisor.web", "--port", str(port)]
    web = subprocess.Popen(command, cwd=stack.cwd, env=stack.env, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: psutil.Process(web.pid).net_connections("tcp"), what="the page")
        supervisor = psutil.Process(stack.status()["supervisor"]["pid"])
        rows = [(pages, *asyncio.run(watch(port, pages, supervisor))) for pages in (0, 1, PAGES)]
    finally:
        web.terminate()
        web.wait()
    print("\n| open pages | the supervisor's CPU, % of a core | events sent a second |")
    print("|---:|---:|---:|")
    for pages, cpu, events in rows:
        print(f"| {pages} | {cpu:.2f} | {events / SECONDS:.1f} |")
