"""The page's own families, `ptsup_*`: what metricsd knows, and what its supervisor hands it.

It reads the one file that a supervisor replaces, and believes it only while that one lives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from telemetry.plan import Family, Sample
from telemetry.processes import read_identity
from telemetry.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

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


@dataclass(frozen=True, slots=True)
class Statement:
    """Families of our own and the values of their slots, and those that were handed over."""

    families: tuple[Family, ...]
    values: tuple[float, ...]
    handed: Sequence[Metric]


def build_statement(facts: Facts, *, handed: Sequence[Metric] | None) -> Statement:
    """Say what metricsd itself answers for; `handed` is None when no supervisor lives."""
    states = {
        "live": facts.live,
        "retired": facts.retired,
        "unreadable": sum(facts.unreadable.values()),
    }
    draft = _Draft()
    draft.add("gauge", "ptsup_shards", "Shard files, by state.", states, label="state")
    draft.add(
        "gauge",
        "ptsup_shards_unreadable",
        "Shard files that cannot be used, or not whole, by reason.",
        facts.unreadable,
        label="reason",
    )
    draft.add(
        "gauge",
        "ptsup_scrape_duration_seconds",
        "Time this scrape took to read and add up the shards.",
        {"": facts.scrape_seconds},
    )
    draft.add(
        "counter",
        "ptsup_label_violations",
        "Series left off the page for a label that is not allowed.",
        {"": facts.violations_total},
    )
    draft.add(
        "counter",
        "ptsup_all_gauges_dropped",
        "Dead processes whose gauges of mode all were dropped, the newest being kept.",
        {"": facts.dropped_total},
    )
    draft.add(
        "gauge", "ptsup_build_info", "The version that runs.", {__version__: 1}, label="version"
    )
    draft.add(
        "gauge", "ptsup_supervisor_up", "Whether the supervisor lives.", {"": handed is not None}
    )
    return Statement(tuple(draft.families), tuple(draft.values), handed or _NOTHING)


# The same object each time, so that nobody has to look whether it has changed.
_NOTHING: Final[Sequence[Metric]] = ()


class _Draft:
    """A statement being made."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.values: list[float] = []

    def add(
        self, kind: str, name: str, text: str, values: Mapping[str, float], *, label: str = ""
    ) -> None:
        sample_name = f"{name}_total" if kind == "counter" else name
        samples = []
        for value in sorted(values):
            labels = ((label, str(value)),) if label else ()
            samples.append(Sample(sample_name, labels, len(self.values)))
            self.values.append(float(values[value]))
        self.families.append(Family(name, kind, text, tuple(samples)))


class SupervisorPart:
    """What the supervisor says of itself, parsed anew only when it has written anew."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._writer: tuple[int, str] = (0, "")
        self._metrics: list[Metric] = []

    def read(self) -> list[Metric] | None:
        """Give the supervisor's families while it lives, the same list until it writes anew."""
        return self._metrics if self._is_current() and self._is_alive() else None

    def _is_alive(self) -> bool:
        pid, identity = self._writer
        try:
            return read_identity(pid) == identity
        except OSError:  # nobody can be looked at now; it lived when it last could
            return True

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
