"""The HTTP side of our exporters: which path answers what, and waitress set up to outlive clients.

It serves a listening socket that it is given; it never binds one, and knows nothing of shards.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ThreadedTaskDispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from telemetry.answers import Answers

_OK: Final = "200 OK"
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
# Level 9 takes twice the time of 6 for one percent less.
_GZIP_LEVEL: Final = 6
# More than ever scrape at once; and some for /healthz and for refusals.
_SCRAPE_THREADS: Final = 16
_OTHER_THREADS: Final = 4
# Sent by Prometheus with each scrape, and by nothing else that might ask for the page.
_SCRAPE_HEADER: Final = "HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """One response: status line, headers without Content-Length, body as it goes out."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Scrapes:
    """The complete scrapes by Prometheus: how many, and when the last ones began (monotonic)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0
        self._last_began: float | None = None
        self._interval_seconds: float | None = None

    def record(self, began: float) -> None:
        """Count a scrape that has been answered; answers may come in another order."""
        with self._lock:
            self._total += 1
            if self._last_began is None:
                self._last_began = began
            elif began > self._last_began:
                self._interval_seconds = began - self._last_began
                self._last_began = began

    def describe(self) -> dict[str, float | int | None]:
        """Give the health document's part that changes with a scrape alone; null: unknown."""
        with self._lock:
            return {
                "scrape_interval_seconds": self._interval_seconds,
                "scrapes_total": self._total,
            }

    def find_age_seconds(self, now: float) -> float | None:
        """Find how long ago the last one began; None when there was none."""
        return None if self._last_began is None else now - self._last_began


def _nothing() -> None:
    pass


class Application:
    """The WSGI application: `/metrics`, `/healthz`, and a refusal for everything else."""

    def __init__(
        self,
        collector: Answers,
        facts: Mapping[str, object],
        after: Callable[[], None] = _nothing,
    ) -> None:
        self._collector = collector
        self._after = after  # called once a request has its answer
        self._facts = facts  # what never changes, for the health document
        self._scrapes = Scrapes()
        self._started = time.monotonic()
        self._last_error = ""
        self._lock = threading.Lock()
        self._document: dict[str, object] = {}  # the last health document, without its ages
        self._version = 0  # counts how often it was another
        self._pages = {"/metrics": self._render_metrics, "/healthz": self._render_health}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; a page that Prometheus still waits for counts as a scrape."""
        began = time.monotonic()
        reply = self._answer(environ)
        self._after()
        start_response(reply.status, [*reply.headers, ("Content-Length", str(len(reply.body)))])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        if reply.status == _OK and environ["PATH_INFO"] == "/metrics" and _SCRAPE_HEADER in environ:
            self._record_scrape(environ, began)
        return [reply.body]

    def _answer(self, environ: WSGIEnvironment) -> Reply:
        render = self._pages.get(environ["PATH_INFO"])
        if render is None:
            return _render_refusal("404 Not Found", "there is /metrics and /healthz")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _render_refusal("405 Method Not Allowed", "GET or HEAD", ("Allow", "GET, HEAD"))
        return render(environ)

    def _render_metrics(self, environ: WSGIEnvironment) -> Reply:
        try:
            page = self._collector.render(environ.get("HTTP_ACCEPT", ""))
        except Exception as error:  # noqa: BLE001  one failed page must not end with a traceback
            self._log_change(f"cannot render /metrics: {error!r}")
            return _render_refusal("500 Internal Server Error", "the log says why")
        self._log_change("")
        return _render_page(page.content_type, page.body, environ)

    def _render_health(self, environ: WSGIEnvironment) -> Reply:
        document = {
            "status": "ok",
            "pid": os.getpid(),
            **self._facts,
            **self._scrapes.describe(),
            **self._collector.describe(),
        }
        tag = self._find_tag(document)
        now = time.monotonic()  # after the rest: no age may be older than what it goes with
        ages = {
            "uptime_seconds": now - self._started,
            "last_scrape_age_seconds": self._scrapes.find_age_seconds(now),
        }
        body = f"{json.dumps(document | ages)}\n".encode()
        return _render_page(_JSON, body, environ, ("ETag", tag))

    def _find_tag(self, document: dict[str, object]) -> str:
        """Find what stands for the document as long as nothing but ages changes in it.

        Who asks every second knows then that it has read this already (RFC 9110, weak).
        """
        with self._lock:
            if document != self._document:
                self._document, self._version = document, self._version + 1
            return f'W/"{document["pid"]}.{self._version}"'

    def _record_scrape(self, environ: WSGIEnvironment, began: float) -> None:
        # Now that the page is complete, and before it goes out: who has read it finds it counted.
        # A client that gave up, as Prometheus does after its timeout, has scraped nothing.
        if not environ["waitress.client_disconnected"]():
            self._scrapes.record(began)

    def _log_change(self, error: str) -> None:
        # A page that fails will fail again with the next scrape; once in the log is enough.
        if error and error != self._last_error:
            _logger.error("%s", error)
        self._last_error = error


def find_gzip_accepted(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header names gzip, and not with a weight of zero."""
    for offer in accept_encoding.lower().split(","):
        coding, *parameters = (part.replace(" ", "") for part in offer.split(";"))
        if coding == "gzip":
            weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
            return weight.strip("0.") != ""
    return False


class Server:
    """A waitress server on a listening socket, in a thread of its own."""

    def __init__(
        self,
        application: Application,
        sock: socket.socket,
        *,
        connection_limit: int,
        name: str = "metricsd",
    ) -> None:
        self._name = name
        self._waitress = _create_server(application, sock, connection_limit, name)

    def start(self) -> None:
        """Begin to accept; a loop that fails ends the process, for nobody would be served."""
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def stop_accepting(self) -> None:
        """Leave new connections in the socket's queue, for whoever serves it next."""
        self._waitress.accepting = False

    def drain(self, timeout_seconds: float) -> None:
        """Give the requests under way a moment to be answered."""
        deadline = time.monotonic() + timeout_seconds
        while self._is_busy() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _is_busy(self) -> bool:
        channels = cast("Mapping[int, HTTPChannel]", self._waitress.active_channels)
        return any(
            channel.requests or channel.total_outbufs_len for channel in list(channels.values())
        )

    def _run(self) -> None:
        failure: object = "its loop ended"
        try:
            self._waitress.run()
        except Exception as error:  # noqa: BLE001  whatever it was, it is the end
            failure = error
        _logger.critical("%s cannot serve any more: %r", self._name, failure)
        os._exit(1)


class Request(HTTPRequestParser):
    """One request; too malformed to have a path, it has an empty one.

    waitress logs the path when a client has left, and without one would raise there.
    """

    path = ""


class _Channel(HTTPChannel):
    """One client's connection, kept from costing the others anything."""

    parser_class = Request

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:  # noqa: A002  waitress'
        super().__init__(server, sock, addr, adj, map=map)
        self.answered = False
        # Or who holds connections and says nothing would keep everybody else out.
        if map is not None and len(map) >= adj.connection_limit:
            _close_idlest(server.active_channels.values(), self)

    def service(self) -> None:
        # Answers to pipelined requests pile up until a worker waits, for ever, for a client that
        # does not read them. The first one is answered and closes; a client may ask again.
        self.answered = True
        requests: Any = self.requests
        with cast("Any", self).requests_lock:
            if len(requests) > 1:
                requests[0].headers["CONNECTION"] = "close"
        super().service()

    def handle_expt(self) -> None:
        # Urgent data is never read, so the poll would report it again at once, for ever.
        self.handle_close()

    def check_client_disconnected(self) -> bool:  # type: ignore[override]  # the stub's mistake
        """Tell whether the client has hung up; waitress itself looks only between requests."""
        sock = self.socket
        if not self.connected or sock is None:
            return True
        try:
            return not sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


class _Dispatcher(ThreadedTaskDispatcher):
    """Has threads for scrapes and others for the rest: a scrape may have to wait for its turn.

    Whoever asks after our health would take the wait for a hang.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rest = ThreadedTaskDispatcher()
        self.set_thread_count(_SCRAPE_THREADS)
        self._rest.set_thread_count(_OTHER_THREADS)

    def add_task(self, task: Any) -> None:
        """Let the one thread or the other answer a channel's first request."""
        if task.requests[0].path == "/metrics":
            super().add_task(task)
        else:
            self._rest.add_task(task)


def _close_idlest(channels: Iterable[_Channel], newest: _Channel) -> None:
    """Close who is silent for longest, of those that never asked anything if there are any.

    One that is being answered is left alone.
    """
    idle = [
        channel
        for channel in channels
        if not (channel.requests or channel.will_close or channel is newest)
    ]
    if idle:
        min(idle, key=lambda channel: (channel.answered, channel.last_activity)).will_close = True


def _create_server(
    application: Application, sock: socket.socket, connection_limit: int, name: str
) -> BaseWSGIServer:
    # Whose warnings are about one client's manners; ours are about the page.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    server = create_server(
        application,
        _dispatcher=_Dispatcher(),
        sockets=[sock],
        backlog=socket.SOMAXCONN,
        # It counts the listener and its own wake-up pipe, too; one more makes another one go.
        connection_limit=connection_limit + 3,
        asyncore_use_poll=True,  # select ends at descriptor 1024
        asyncore_loop_timeout=30,  # everything else wakes the loop by itself
        max_request_header_size=16 * 1024,
        max_request_body_size=64 * 1024,
        outbuf_overflow=1 << 30,  # a page waits in memory, never in a temporary file
        log_socket_errors=False,
        ident=name,
    )
    server = cast("BaseWSGIServer", server)
    server.channel_class = _Channel
    return server


def _render_page(
    content_type: str, body: bytes, environ: WSGIEnvironment, *headers: tuple[str, str]
) -> Reply:
    headers = (("Content-Type", content_type), *headers)
    if find_gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
        body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        headers = (*headers, ("Content-Encoding", "gzip"))
    return Reply(_OK, headers, body)


def _render_refusal(status: str, hint: str, *headers: tuple[str, str]) -> Reply:
    return Reply(status, (("Content-Type", _TEXT), *headers), f"{status}: {hint}\n".encode())
