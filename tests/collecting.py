"""A collector in a test's own process: it ends before the process does."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from telemetry.collector import ShardCollector, open_collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def close(collector: ShardCollector) -> None:
    """Close what a collector keeps open; in metricsd it lives as long as the process."""
    collector._readings.drop(list(collector._readings.sources.values()))
    if collector._retired._lock is not None:
        os.close(collector._retired._lock)
        collector._retired._lock = None


@contextmanager
def collecting(directory: Path) -> Iterator[ShardCollector]:
    """Open a collector that shows every label, and close it afterwards."""
    collector = open_collector(directory)
    try:
        yield collector
    finally:
        close(collector)
