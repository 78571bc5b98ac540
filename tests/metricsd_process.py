"""metricsd as a real process, for the tests that ask it something over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon_process import Daemon, run_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHILDREN = Path(__file__).parent / "children"
METRICSD = (sys.executable, "-P", "-m", "telemetry.metricsd")
STARTED = re.compile(r" INFO metricsd started on (\S+):(\d+) multiproc_dir=(.*)\n")


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Metricsd(Daemon):
    """A running metricsd."""

    STARTED = STARTED

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            return ask(connection, method, path, headers or {})
        finally:
            connection.close()

    def scrape(self) -> str:
        response = self.request("GET", "/metrics")
        assert response.status == 200
        return response.body.decode()

    def scrape_series(self) -> str:
        """Scrape, and leave out what metricsd says of itself."""
        lines = self.scrape().splitlines(keepends=True)
        return "".join(line for line in lines if "ptsup_" not in line)

    def health(self) -> dict[str, Any]:
        response = self.request("GET", "/healthz")
        assert response.status == 200
        document: dict[str, Any] = json.loads(response.body)
        return document


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
) -> Response:
    connection.request(method, path, headers=dict(headers))
    response = connection.getresponse()
    return Response(response.status, dict(response.getheaders()), response.read())


def options_for(directory: Path) -> list[str | Path]:
    return ["--port", "0", "--multiproc-dir", directory]


def clean_environ(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(("PEAK", "PROM"))}
    return kept | extra


@contextmanager
def running(command: Sequence[str | Path], log_path: Path, **popen: Any) -> Iterator[Metricsd]:
    """Run a metricsd until the block ends, from the moment it says that it started."""
    popen.setdefault("env", clean_environ())
    with run_daemon(Metricsd, command, log_path, **popen) as metricsd:
        yield metricsd
