"""prometheus_client's own merge, over bytes instead of files: what ours is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import mmap_dict, multiprocess
from prometheus_client.multiprocess import MultiProcessCollector

from telemetry.shards import render_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from telemetry.base import Base
    from telemetry.shards import Entry

    # Kind, mode, pid and entries.
    Contents = tuple[str, str, int, list[Entry]]
    # Name and labels of a sample.
    Sample = tuple[str, frozenset[tuple[str, str]]]
    # Type, help and samples of each family.
    Page = dict[str, tuple[str, str, dict[Sample, float]]]


class Images:
    """What the library finds where it would open a file."""

    def __init__(self, shards: Iterable[Contents]) -> None:
        self.by_name: dict[str, bytes] = {}
        for number, (kind, mode, pid, entries) in enumerate(shards):
            prefix = f"gauge_{mode}" if mode else kind
            self.by_name[f"{number}/{prefix}_{pid}.db"] = render_shard(entries)

    def read_all_values_from_file(self, name: str) -> Iterator[tuple[str, float, float, int]]:
        values: Iterator[tuple[str, float, float, int]]
        values = mmap_dict._read_all_values(self.by_name[name])  # type: ignore[no-untyped-call]
        return values


def merge_stock(shards: Iterable[Contents], *, accumulate: bool) -> Page:
    """Merge shards in their order as MultiProcessCollector does."""
    images = Images(shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocess, "MmapedDict", images)
        merged: Any = MultiProcessCollector.merge(  # type: ignore[no-untyped-call]
            list(images.by_name), accumulate=accumulate
        )
    return {
        metric.name: (
            metric.type,
            metric.documentation,
            {(s.name, frozenset(s.labels.items())): s.value for s in metric.samples},
        )
        for metric in merged
    }


def list_sections(base: Base) -> list[Contents]:
    return [
        (kind, mode, pid, [(raw, value, time) for raw, (value, time) in series.items()])
        for (kind, mode, pid), series in base.sections.items()
    ]
