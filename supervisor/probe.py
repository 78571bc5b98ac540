"""Asks metricsd over HTTP whether it does its work, and waits for the last scrape.

Each question has its own deadline. It posts events and decides nothing. Who is healthy is
asked on a connection that is kept, and answers it at the next beat; nothing here needs a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor.config import METRICSD
from supervisor.events import Drained, Event, Ready, Unhealthy
from supervisor.kept import Kept
from supervisor.process import Process, State
from supervisor.pulse import PulseLoop
from telemetry.mode import find_probe_host, render_address

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("ptsup")

# From the start of one to the start of the next: who has not answered by then, or within the
# shorter time where it is waited for, hangs. Noticed within 2 s, whenever it began.
PROBE_SECONDS: Final = 0.98
ANSWER_SECONDS: Final = 0.95
# A connection is kept for so many questions: that new ones are taken has to be seen, too.
KEPT_QUESTIONS: Final = 30
# What fails at once (a full queue, a reset) is asked again after so long.
ASK_AGAIN_SECONDS: Final = 0.1
# What is wrong with this process or machine, and says nothing about metricsd.
_STARVED: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
)
# When we wake so much too late, it was we who hung (stopped, swapped out), and nobody else.
LATE_SECONDS: Final = 0.25
# A health document that is older says nothing about now.
SILENT_SECONDS: Final = 3.0
DRAIN_LIMIT_SECONDS: Final = 20.0
DRAIN_LOOK_SECONDS: Final = 0.2


def _nothing(*_: object) -> None:
    pass


@dataclass(slots=True, kw_only=True)
class Prober:
    """Watches one metricsd, whichever incarnation of it is up."""

    host: str
    port: int
    find_metricsd: Callable[[], Process]
    post: Callable[[Event], None]
    after: Callable[[float], None] = _nothing  # called after each probe: who is due looks, too
    note_health: Callable[[], None] = _nothing  # called when metricsd says something else
    drain_seconds: float | None = None  # None: by the interval Prometheus scrapes at
    drained: str = ""  # how the drain went, in words
    _health: dict[str, Any] = field(default_factory=dict)
    _health_at: float = 0.0  # when its ages were true
    _heard_at: float = 0.0  # when it was last said to be still so
    _now: asyncio.Event = field(default_factory=asyncio.Event)
    _kept: Kept | None = None
    _kept_for: Process | None = None  # who answers on it, as running as it was then
    _asked: int = 0  # on this connection
    _asked_at: float = 0.0
    _failure: Exception | None = None

    @property
    def url(self) -> str:
        """The page's address, as seen from this machine."""
        return f"http://{render_address(self.host, self.port)}/metrics"

    @property
    def last_scrape_age_seconds(self) -> float | None:
        """How long ago Prometheus last scraped; None when it never has."""
        age = self._health.get("last_scrape_age_seconds")
        return None if age is None else round(age + time.monotonic() - self._health_at, 3)

    @property
    def health(self) -> dict[str, Any]:
        """The last health document there was, of whichever incarnation."""
        return self._health

    @property
    def unreadable_shards(self) -> int:
        """How many shards metricsd cannot read; 0 when it has not said so lately."""
        counts = self._health.get("shards_unreadable")
        silent = time.monotonic() - self._heard_at > SILENT_SECONDS
        if silent or not isinstance(counts, dict):
            return 0
        return sum(count for count in counts.values() if type(count) is int and count > 0)

    def __post_init__(self) -> None:
        """Ask at loopback when metricsd listens on any address."""
        self.host = find_probe_host(self.host)

    def wake(self) -> None:
        """Probe now: a new metricsd was spawned."""
        self._now.set()

    async def run(self) -> None:
        """Ask a starting metricsd for a scrape, a running one every second for its health."""
        try:
            while True:
                began = time.monotonic()
                await self._probe()
                self.after(time.monotonic())
                await self._beat_steadily(began)
        finally:
            self._hang_up()

    async def _beat_steadily(self, began: float) -> None:
        """Let beats follow until one has to wait for something, or is wanted now."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PulseLoop)
        loop.start_beats(began + PROBE_SECONDS, PROBE_SECONDS, self._beat)
        try:
            await self._now.wait()
        finally:
            loop.stop_beats()
        self._now.clear()
        if self._failure is not None:
            raise self._failure

    def _beat(self, now: float) -> None:
        """Do all of a beat within the loop's wait: to wake a task for it costs as much again."""
        try:
            if self._probe_kept(now):
                self.after(now)
                return
        except Exception as error:  # noqa: BLE001 - raised where it does not go unnoticed
            self._failure = error
        self._now.set()

    async def _probe(self) -> None:
        metricsd = self.find_metricsd()
        match metricsd.state:
            case State.STARTING:
                # The port listens already, so the first scrape waits for metricsd to accept it.
                if await probe_scrape(self.host, self.port, PROBE_SECONDS):
                    self.post(Ready(METRICSD, metricsd.incarnation))
            case State.RUNNING:
                if not self._probe_kept(time.monotonic()) and await self._probe_running(metricsd):
                    await self._keep_asking(metricsd)
            case _:
                pass

    def _probe_kept(self, now: float) -> bool:
        """Read the answer to the last question and ask the next; False where that cannot be."""
        if self._kept is not None and self.find_metricsd() is self._kept_for:
            try:
                if self._take_answer(self._kept_for, self._kept, now):
                    return True
            except (OSError, ValueError, EOFError):
                pass
        self._hang_up()
        return False

    def _take_answer(self, metricsd: Process, kept: Kept, now: float) -> bool:
        health = kept.read()
        if health is None:
            waited = now - self._asked_at
            if waited > PROBE_SECONDS + LATE_SECONDS:
                return False  # it was we who hung: ask anew, and wait for it
            if waited >= ANSWER_SECONDS:
                self._post_silence(metricsd, PROBE_SECONDS)
            return True
        if health is not self._health and not self._take_health(metricsd, health, self._asked_at):
            return False
        # It was so at some moment after it was asked.
        self._heard_at = self._asked_at
        if self._asked < KEPT_QUESTIONS and not kept.ended:
            kept.ask()
            self._asked += 1
        else:
            kept.renew()
            self._asked = 1
        self._asked_at = now
        return True

    def _take_health(self, metricsd: Process, health: dict[str, Any], at: float) -> bool:
        """Take in another health document, if it is that metricsd's."""
        if health.get("pid") != metricsd.pid:
            return False
        self._health, self._health_at, self._heard_at = health, at, at
        self.note_health()
        return True

    async def _keep_asking(self, metricsd: Process) -> None:
        """Ask on a connection that is kept; where there is none, the next beat will see."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self._kept = await Kept.open(self.host, self.port, "/healthz")
        except OSError:
            return
        self._kept_for, self._asked, self._asked_at = metricsd, 1, time.monotonic()

    def _hang_up(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _post_silence(self, metricsd: Process, seconds: float) -> None:
        reason = f"did not answer within {seconds:g} s"
        self.post(Unhealthy(METRICSD, metricsd.incarnation, reason))

    async def _probe_running(self, metricsd: Process) -> bool:
        """Ask and wait for the answer, again and again for a while; whether it came."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                health = await _fetch_health(self.host, self.port, left)
            except OSError as error:
                if error.errno in _STARVED:
                    return False
                health = None
            if health is not None and self._take_health(metricsd, health, time.monotonic()):
                return True
            await asyncio.sleep(max(0.0, min(ASK_AGAIN_SECONDS, deadline - time.monotonic())))
        if time.monotonic() - deadline < LATE_SECONDS:
            self._post_silence(metricsd, ANSWER_SECONDS)
        return False

    async def drain(self) -> None:
        """Wait for one complete scrape by Prometheus that began after now, then say so."""
        began = asked = time.monotonic()
        health = await probe_health(self.host, self.port, PROBE_SECONDS) or {}
        limit = self._find_drain_limit(health)
        self.drained = "nothing to wait for: no Prometheus ever scraped"
        while limit > 0:
            age, waited = health.get("last_scrape_age_seconds"), time.monotonic() - began
            # The age is that of the scrape's beginning, at some moment after we asked.
            if age is not None and age < asked - began:
                self.drained = f"Prometheus scraped the last totals after {waited:.1f} s"
                break
            if waited >= limit:
                self.drained = f"no scrape by Prometheus came within {limit:g} s"
                break
            await asyncio.sleep(min(DRAIN_LOOK_SECONDS, limit - waited))
            asked = time.monotonic()
            health = await probe_health(self.host, self.port, PROBE_SECONDS) or {}
        log.info("drain: %s", self.drained)
        self.post(Drained())

    def _find_drain_limit(self, health: dict[str, Any]) -> float:
        if health.get("last_scrape_age_seconds") is None:
            return 0.0
        if self.drain_seconds is not None:
            return self.drain_seconds
        interval = health.get("scrape_interval_seconds") or DRAIN_LIMIT_SECONDS
        return float(min(1.5 * interval, DRAIN_LIMIT_SECONDS))


async def probe_port(host: str, port: int, timeout_seconds: float) -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def probe_page(host: str, port: int, path: str, timeout_seconds: float) -> bool:
    """Whether a page answers, with success or with the way to another; its content is not read."""
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
                status = int((await reader.readline()).split(None, 2)[1])
            finally:
                writer.close()
    except (OSError, ValueError, IndexError):
        return False
    return 200 <= status < 400


async def probe_scrape(host: str, port: int, timeout_seconds: float) -> bool:
    """Whether a scrape answers 200 within the timeout."""
    try:
        async with asyncio.timeout(timeout_seconds):
            status, _ = await _get(host, port, "/metrics")
    except (OSError, ValueError, EOFError):
        return False
    return status == 200


async def probe_health(host: str, port: int, timeout_seconds: float) -> dict[str, Any] | None:
    """Fetch metricsd's /healthz document; None when it does not come within the timeout."""
    with contextlib.suppress(OSError):
        return await _fetch_health(host, port, timeout_seconds)
    return None


async def _fetch_health(host: str, port: int, timeout_seconds: float) -> dict[str, Any] | None:
    """Do that, but raise OSError for what went wrong on the way there."""
    try:
        async with asyncio.timeout(timeout_seconds):
            status, body = await _get(host, port, "/healthz")
            document = json.loads(body)
    except (TimeoutError, ValueError, EOFError):
        return None
    return document if status == 200 and isinstance(document, dict) else None


async def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        # HTTP/1.0: the answer ends with the connection, so nothing has to be parsed but this.
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split(None, 2)[1]), await reader.read()
    finally:
        writer.close()
