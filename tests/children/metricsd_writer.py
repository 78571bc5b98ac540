"""Writes one shard of every kind into DIR, says so, and holds them open until its stdin ends.

usage: metricsd_writer.py DIR [COUNT [GAUGE]]
"""

from __future__ import annotations

import os
import sys

os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

count = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
gauge = float(sys.argv[3]) if len(sys.argv) > 3 else 1.0
registry = CollectorRegistry()
Counter("shop_sales", "Sales.", ["check"], registry=registry).labels("tea").inc(count)
Gauge("shop_queue", "Queue.", multiprocess_mode="livemax", registry=registry).set(gauge)
Gauge("shop_record", "Record.", multiprocess_mode="max", registry=registry).set(gauge)
Histogram("shop_wait", "Wait.", buckets=(1, 5), registry=registry).observe(gauge)
Summary("shop_price", "Price.", registry=registry).observe(gauge)
print("written", flush=True)
sys.stdin.read()
