"""Writes one shard of every kind into DIR, says so, and lives until its stdin ends.

usage: good_writer.py DIR
"""

from __future__ import annotations

import os
import sys

os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from telemetry.shards import GAUGE_MODES

registry = CollectorRegistry()
checks = Counter("good_checks", "Checks.", ["reason", "ccy"], registry=registry)
checks.labels("runtime:halt", 'Ü "quoted" \\ and\nbroken').inc(3)
checks.labels("runtime:pause", "EUR").inc(0.5)
for mode in GAUGE_MODES:
    gauge = Gauge(
        f"good_{mode}",
        "Gauge.",
        ["ccy"],
        multiprocess_mode=mode,
        registry=registry,
    )
    gauge.labels("EUR").set(-2.25)
Histogram("good_wait", "Wait.", ["check"], buckets=(1, 5), registry=registry).labels("a").observe(3)
Summary("good_price", "Price.", registry=registry).observe(-4)
print("written", flush=True)
sys.stdin.read()
