"""The peer: what every Python user has today, `start_http_server` with MultiProcessCollector."""

from __future__ import annotations

import sys
from typing import Any

import prometheus_client
from prometheus_client.multiprocess import MultiProcessCollector

_library: Any = prometheus_client  # it has few types


def main() -> None:
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry, path=sys.argv[1])  # type: ignore[no-untyped-call]
    server, thread = _library.start_http_server(0, addr="127.0.0.1", registry=registry)
    print(server.server_port, flush=True)
    thread.join()


if __name__ == "__main__":
    main()
