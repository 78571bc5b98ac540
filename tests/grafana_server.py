"""A server that answers the four questions of `ptsup verify` as Grafana's documentation says.

https://grafana.com/docs/grafana/latest/developers/http_api/: `GET /api/health` needs no
credentials; `GET /api/datasources/name/:name` and the data source proxy want a token or a user.
"""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "glsa_a-token-that-nobody-may-see"
USER, PASSWORD = "admin", "a-password-that-nobody-may-see"


@dataclass
class Grafana:
    """What it is set up with; `source` is the data source it calls prometheus, None for none."""

    prometheus_url: str
    url: str = ""
    source: dict[str, Any] | None = field(
        default_factory=lambda: {
            "id": 7,
            "uid": "PBFA97CFB590B2093",
            "orgId": 1,
            "name": "prometheus",
            "type": "prometheus",
            "access": "proxy",
            "isDefault": True,
            "readOnly": False,
        }
    )
    has_uids: bool = True  # the proxy by uid came with Grafana 9
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, authorization: str) -> tuple[int, Any]:
        self.asked.append(path)
        if path == "/api/health":
            return 200, {"commit": "abc", "database": "ok", "version": "11.2.0"}
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization not in {f"Bearer {TOKEN}", f"Basic {basic}"}:
            return 401, {"message": "Unauthorized", "statusCode": 401}
        if path == "/api/datasources/name/prometheus":
            return (
                (200, self.source) if self.source else (404, {"message": "Data source not found"})
            )
        ways = ["/api/datasources/proxy/7/"]
        if self.has_uids:
            ways.append("/api/datasources/proxy/uid/PBFA97CFB590B2093/")
        for way in ways:
            if path.startswith(way):
                return _fetch(f"{self.prometheus_url}/{path.removeprefix(way)}")
        return 404, {"message": "Not found"}


def _fetch(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return 200, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None
    except OSError:
        return 502, None


@contextmanager
def running_grafana(prometheus_url: str) -> Iterator[Grafana]:
    grafana = Grafana(prometheus_url)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = grafana.answer(self.path, self.headers.get("Authorization", ""))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        grafana.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield grafana
        server.shutdown()
