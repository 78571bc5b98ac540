"""Reads what metricsd says of the shards in its health document, with suspicion. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class ToldViolation:
    """Series with a label that is not allowed; `pid` is 0 when they are in the base."""

    metric: str
    label: str
    pid: int
    shard: str
    series: int


def read_defects(health: Mapping[str, Any]) -> dict[str, str]:
    """Read which flat shards metricsd cannot use, or not whole: why, by name."""
    return {
        entry["shard"]: f"metricsd cannot use all of it ({entry['defects']})"
        for entry in _list(health, "unreadable")
        if isinstance(entry.get("shard"), str) and isinstance(entry.get("defects"), str)
    }


def read_violations(health: Mapping[str, Any]) -> tuple[ToldViolation, ...]:
    """Read which series metricsd left off the page."""
    found = []
    for entry in _list(health, "label_violations"):
        texts = [entry.get(name) for name in ("metric", "label", "shard")]
        numbers = [entry.get(name) for name in ("pid", "series")]
        if all(isinstance(text, str) for text in texts) and all(type(n) is int for n in numbers):
            metric, label, shard = map(str, texts)
            pid, series = (int(number or 0) for number in numbers)
            found.append(ToldViolation(metric, label, pid, shard, series))
    return tuple(found)


def _list(health: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    entries = health.get(name)
    if isinstance(entries, list):
        yield from (entry for entry in entries if isinstance(entry, dict))
