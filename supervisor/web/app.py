"""The routes: a page, its stream, tails of logs, metrics of its own. None of them changes anything.

Whatever is not for this peer or under this name is refused before a route is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from supervisor.config import METRICSD
from supervisor.logs import read_tail
from supervisor.web.guard import HEADERS, find_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from supervisor.web.watch import Watch

LOG_LINES: Final = 200
_METRICS_PATH: Final = "/metrics"
_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Lets in whom the page is for, and puts the same headers on every answer."""

    app: ASGIApp
    public: bool
    names: frozenset[str]
    requests: Counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
                self.requests.labels(code=str(message["status"])).inc()
            await send(message)

        refusal = self._find_refusal(scope)
        app = self.app if refusal is None else PlainTextResponse(f"{refusal}\n", 403)
        await app(scope, receive, send_guarded)

    def _find_refusal(self, scope: Scope) -> str | None:
        if scope["path"] == _METRICS_PATH:  # Prometheus comes from its container, by any name
            return None
        peer = (scope.get("client") or ("",))[0]
        host = Headers(scope=scope).get("host", "")
        return find_refusal(peer, host, public=self.public, names=self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The answers to each route."""

    watch: Watch
    registry: CollectorRegistry
    files: dict[str, bytes] = field(
        default_factory=lambda: {
            path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _TYPES
        }
    )

    async def get_page(self, _request: Request) -> Response:
        """Answer with the page itself."""
        return self._build_file("index.html")

    async def get_static(self, request: Request) -> Response:
        """Answer with what the page needs: its script, its style, the chart library."""
        return self._build_file(request.path_params["name"])

    def _build_file(self, name: str) -> Response:
        if name not in self.files:
            raise HTTPException(404)
        return Response(self.files[name], media_type=_TYPES[Path(name).suffix])

    async def get_events(self, _request: Request) -> Response:
        """Answer with the stream of what is seen."""
        return StreamingResponse(self.watch.stream(), media_type="text/event-stream")

    async def get_log(self, request: Request) -> Response:
        """Answer with the last lines of a log, as text that is harmless."""
        name, run_dir = request.path_params["name"], self.watch.run_dir
        if self.watch.public or name not in {METRICSD, *run_dir.list_sessions()}:
            raise HTTPException(404)
        lines = await asyncio.to_thread(read_tail, run_dir.log(name), LOG_LINES)
        return JSONResponse({"name": name, "lines": lines})

    async def get_metrics(self, request: Request) -> Response:
        """Answer with this process's own metrics; the sessions' are metricsd's."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), headers={"content-type": media_type})


def build_app(watch: Watch, *, names: frozenset[str]) -> Guard:
    """Build the application (ASGI) that shows what `watch` sees; it ends with its server."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    requests = Counter(
        "ptsup_web_requests", "Requests answered, by status code.", ["code"], registry=registry
    )
    pages = Pages(watch=watch, registry=registry)
    Gauge("ptsup_web_pages", "Pages that are open.", registry=registry).set_function(
        lambda: watch.audience
    )

    @contextlib.asynccontextmanager
    async def look(_app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(watch.run())
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    app = Starlette(
        routes=[
            Route("/", pages.get_page),
            Route("/static/{name}", pages.get_static),
            Route("/events", pages.get_events),
            Route("/logs/{name}", pages.get_log),
            Route(_METRICS_PATH, pages.get_metrics),
        ],
        lifespan=look,
    )
    return Guard(app=app, public=watch.public, names=names, requests=requests)
