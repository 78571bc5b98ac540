"""Clients of metricsd that look closely: every request is written down, no counter may fall."""

from __future__ import annotations

import http.client
import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.events import EventLog, Request

if TYPE_CHECKING:
    from chaos.ledgers import Ledgers
    from stack import Series

# Longer than any restart of a hung metricsd takes.
ANSWER_SECONDS = 20.0
# How a kept connection fails when its server died meanwhile, before anything was answered.
STALE = ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_cache: dict[str, Series] = {}


def read_page(text: str) -> dict[Series, float]:
    """Read every sample of a page. The library's parser does it too, at many times the cost."""
    return {
        read_series(left): float(value)
        for left, _, value in (line.rpartition(" ") for line in text.splitlines())
        if not left.startswith("#")
    }


def read_series(text: str) -> Series:
    if text not in _cache:
        name, _, labels = text.partition("{")
        _cache[text] = (name, tuple(sorted(_LABEL.findall(labels))))
    return _cache[text]


def render_series(series: Series) -> str:
    name, labels = series
    return f"{name}{{{','.join(f'{key}={value}' for key, value in labels)}}}"


def is_counter(series: Series) -> bool:
    """Whether it must never fall; metricsd's own counters live as long as metricsd."""
    return series[0].endswith(("_total", "_count", "_bucket")) and not series[0].startswith("ptsup")


@dataclass(slots=True)
class Floor:
    """The highest value of each counter on any page so far, and the page it was on.

    A scrape is held against the pages that were complete before it began.
    """

    falls: list[str] = field(default_factory=list)
    fell_at: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _values: dict[Series, tuple[float, Request]] = field(default_factory=dict)

    def read(self) -> dict[Series, tuple[float, Request]]:
        with self._lock:
            return dict(self._values)

    def check(
        self,
        page: dict[Series, float],
        request: Request,
        before: dict[Series, tuple[float, Request]],
        log: EventLog,
    ) -> None:
        """Note what fell since `before`, then raise the floor."""
        fallen = []
        for series, (value, earlier) in before.items():
            now = page.get(series)
            if now is None or now < value:
                fallen.append(
                    f"{render_series(series)} fell from {value:g} ({earlier.client}"
                    f" #{earlier.number}, complete at {log.at(earlier.ended).strip()}) to"
                    f" {'nothing' if now is None else f'{now:g}'}"
                )
        with self._lock:
            if fallen:
                self.falls.append(
                    f"{log.at(request.began)}..{log.at(request.ended).strip()} {request.client}"
                    f" #{request.number}: {len(fallen)} series, such as {'; '.join(fallen[:2])}"
                )
                self.fell_at.append(request.ended)
                log.note("fall", None, request.client, self.falls[-1])
            for series, value in page.items():
                if is_counter(series):
                    known = self._values.get(series)
                    if known is None or known[0] < value:
                        self._values[series] = (value, request)


class Scraper(threading.Thread):
    """Scrapes again and again, each time on a fresh connection or on one that it keeps."""

    def __init__(
        self, name: str, port: int, *, keep: bool, floor: Floor, log: EventLog, pause: float
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.requests: list[Request] = []
        self._port = port
        self._keep = keep
        self._floor = floor
        self._log = log
        self._pause = pause
        self._rng = random.Random(name)
        self._over = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        while not self._over.wait(self._rng.uniform(0.5, 1.5) * self._pause):
            self.scrape()

    def finish(self) -> None:
        self._over.set()
        self.join(2 * ANSWER_SECONDS)
        self._close()

    def scrape(self) -> dict[Series, float] | None:
        """Scrape once; a kept connection that died meanwhile is made anew, as Prometheus does."""
        before = self._floor.read()
        request, text = self._get()
        if not request.fresh and request.outcome.startswith(STALE):
            request, text = self._get()
        self.requests.append(request)
        if not request.good:
            self._log.note("failed", None, self.name, f"#{request.number} {request.outcome}")
            return None
        page = read_page(text)
        self._floor.check(page, request, before, self._log)
        return page

    def _get(self) -> tuple[Request, str]:
        fresh = self._connection is None
        number, began = len(self.requests) + 1, time.monotonic()
        text, answered = "", ""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self._port, timeout=ANSWER_SECONDS
                )
            self._connection.request("GET", "/metrics")
            answer = self._connection.getresponse()
            answered = "after its head was answered: "
            text = answer.read().decode()
            outcome = str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            outcome = f"{answered}{error!r}"
        request = Request(self.name, number, fresh, began, time.monotonic(), outcome)
        if not self._keep or not request.good:
            self._close()
        return request, text

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Auditor(Scraper):
    """A scraper that also holds every page against the ledgers, as they are at that moment."""

    def __init__(self, name: str, port: int, ledgers: Ledgers, floor: Floor, log: EventLog) -> None:
        super().__init__(name, port, keep=False, floor=floor, log=log, pause=0.7)
        self._ledgers = ledgers
        self.audits = 0
        self.wrong: list[str] = []
        self.wrong_at: list[float] = []
        self._known: set[Series] = set()

    def scrape(self) -> dict[Series, float] | None:
        self._ledgers.read()
        least = dict(self._ledgers.sure.sums)
        page = super().scrape()
        if page is None:
            return None
        self._ledgers.read()
        self.audits += 1
        wrong = self._ledgers.find_difference(page, least)
        fresh = sorted(wrong.keys() - self._known)
        if fresh:
            request = self.requests[-1]
            examples = "; ".join(f"{render_series(one)}: {wrong[one]}" for one in fresh[:2])
            self.wrong.append(
                f"{self._log.at(request.began)}..{self._log.at(request.ended).strip()}"
                f" #{request.number}: {len(fresh)} more series are wrong, such as {examples}"
            )
            self.wrong_at.append(request.ended)
            self._log.note("wrong", None, self.name, self.wrong[-1])
        elif self._known and not wrong:
            self._log.note("right again", None, self.name)
        self._known = set(wrong)
        return page


class RawClient(threading.Thread):
    """One connection after another, each with one GET, on a bare socket."""

    def __init__(self, name: str, port: int, pause: float = 0.0) -> None:
        super().__init__(name=name, daemon=True)
        self.requests: list[Request] = []
        self._port = port
        self._pause = pause
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._pause):
            began = time.monotonic()
            outcome = self._get()
            self.requests.append(
                Request(self.name, len(self.requests) + 1, True, began, time.monotonic(), outcome)
            )

    def finish(self) -> None:
        self._over.set()
        self.join(2 * ANSWER_SECONDS)

    def _get(self) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self._port), ANSWER_SECONDS) as sock:
                sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                received = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        except OSError as error:
            return repr(error)
        head, ended, body = received.partition(b"\r\n\r\n")
        if not ended:
            return f"closed after {len(received)} bytes"
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is not None and len(body) != int(length[1]):
            return f"cut: {len(body)} of {length[1].decode()} bytes"
        return head.split(None, 2)[1].decode()
