"""The first page of a fresh process, nothing cached: says how many seconds it took, imports aside.

`stock` is prometheus_client's MultiProcessCollector, `ptsup` metricsd's collector.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

import telemetry.sums  # noqa: F401 - else the first shard would import it
from telemetry.collector import open_collector
from telemetry.descriptors import raise_limit
from telemetry.policy import build_policy


def main() -> None:
    kind, directory = sys.argv[1:]
    began = time.perf_counter()
    if kind == "stock":
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]
        page = generate_latest(registry)
    else:
        collector = open_collector(
            Path(directory), descriptor_limit=raise_limit().shards, policy=build_policy([])
        )
        page = collector.render("").body
    seconds = time.perf_counter() - began
    assert page
    print(seconds)


if __name__ == "__main__":
    main()
