"""The page's own families, `ptsup_*`: what metricsd knows, and what its supervisor hands it.

It reads the one file that a supervisor replaces, and believes it only while that one lives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from telemetry.processes import read_identity
from telemetry.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# A thousand sessions take a tenth of it; anything longer is not what a supervisor wrote.
_FILE_LIMIT_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one scrape found; `unreadable` counts shards by reason."""

    live: int
    retired: int
    unreadable: Mapping[str, int]
    scrape_seconds: float
    violations_total: int
    dropped_total: int


def build_metrics(facts: Facts) -> list[Metric]:
    """Build the families that metricsd itself answers for."""
    states = {
        "live": facts.live,
        "retired": facts.retired,
        "unreadable": sum(facts.unreadable.values()),
    }
    return [
        _build("gauge", "ptsup_shards", "Shard files, by state.", "state", states),
        _build(
            "gauge",
            "ptsup_shards_unreadable",
            "Shard files that cannot be used, or not whole, by reason.",
            "reason",
            facts.unreadable,
        ),
        _build_one(
            "gauge",
            "ptsup_scrape_duration_seconds",
            "Time this scrape took to read and add up the shards.",
            facts.scrape_seconds,
        ),
        _build_one(
            "counter",
            "ptsup_label_violations",
            "Series left off the page for a label that is not allowed.",
            facts.violations_total,
        ),
        _build_one(
            "counter",
            "ptsup_all_gauges_dropped",
            "Dead processes whose gauges of mode all were dropped, the newest being kept.",
            facts.dropped_total,
        ),
        _build("gauge", "ptsup_build_info", "The version that runs.", "version", {__version__: 1}),
    ]


def _build(kind: str, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = Metric(name, text, kind)
    for value in sorted(values):
        metric.add_sample(name, {label: str(value)}, values[value])
    return metric


def _build_one(kind: str, name: str, text: str, value: float) -> Metric:
    metric = Metric(name, text, kind)
    metric.add_sample(f"{name}_total" if kind == "counter" else name, {}, value)
    return metric


class SupervisorPart:
    """What the supervisor says of itself, parsed anew only when it has written anew."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._writer: tuple[int, str] = (0, "")
        self._metrics: list[Metric] = []

    def read(self) -> list[Metric]:
        """Give the supervisor's families while it lives, and whether it does."""
        alive = self._is_current() and read_identity(self._writer[0]) == self._writer[1]
        up = _build_one("gauge", "ptsup_supervisor_up", "Whether the supervisor lives.", alive)
        return [*self._metrics, up] if alive else [up]

    def _is_current(self) -> bool:
        """Read the file if it is another than before; False when there is none to be believed."""
        if self._path is None:
            return False
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_ino, found.st_mtime_ns, found.st_size)
                if seen == self._seen:
                    return True
                text = file.read(_FILE_LIMIT_BYTES).decode()
            first, _, rest = text.partition("\n")
            mark, name, pid, identity = first.split(" ")
            if (mark, name) != ("#", "ptsup"):
                return False
            self._writer = int(pid), identity
            self._metrics = list(text_string_to_metric_families(rest))
        except (OSError, ValueError):
            self._seen = None
            return False
        self._seen = seen
        return True
