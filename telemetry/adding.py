"""A scrape's arithmetic: what the sources of a plan say now, added up in bulk.

The result is what prometheus_client's MultiProcessCollector makes of the same shards.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from telemetry.families import render_bound
from telemetry.plan import Family, HistogramSeries, Part, Plan, Sample, Totals
from telemetry.shards import is_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telemetry.groups import Order
    from telemetry.plan import Floats, Labels, Places
    from telemetry.shards import Key

# The time, the source's place and the value of the most recent setting so far.
_Recent: TypeAlias = "tuple[float, Order, float]"


def add_up(plan: Plan) -> Totals:
    """Add up what the sources of a plan say now."""
    values = np.zeros(plan.size)
    present = np.zeros(plan.size, dtype=bool)
    recent: dict[int, _Recent] = {}
    with np.errstate(all="ignore"):
        for part in plan.parts:
            _add_part(part, values, present, recent)
        for slot, (_, _, value) in recent.items():
            values[slot], present[slot] = value, True
        for series in plan.histograms:
            _accumulate(series, values, present)
    disputed = tuple(
        _settle_dispute(family, plan.disputed[family.name])
        for family in plan.families
        if family.name in plan.disputed
    )
    return Totals(plan, values.tolist(), present.tolist(), disputed)


def _add_part(
    part: Part, values: Floats, present: NDArray[np.bool_], recent: dict[int, _Recent]
) -> None:
    group, slots = part.group, part.slots
    rows = group.rows
    if len(part.columns) != rows.shape[1]:
        rows = rows[:, part.columns]
    match group.mode.removeprefix("live"):
        case "all":
            values[slots] = rows
            present[slots] = True
        case "min":
            _choose(np.fmin, rows, slots, values, present)
        case "max":
            _choose(np.fmax, rows, slots, values, present)
        case "mostrecent":
            _choose_recent(part, rows, recent)
        case _:
            _sum(part, rows, values, present)


def _sum(part: Part, rows: Floats, values: Floats, present: NDArray[np.bool_]) -> None:
    total = rows.sum(axis=0)
    there = np.ones(len(total), dtype=bool)
    counts = slice(0, part.counts)
    if np.isnan(total[counts]).any():
        # NaN among what counts is a value that was never good: as if it were not there.
        total[counts] = np.nansum(rows[:, counts], axis=0)
        there[counts] = ~np.isnan(rows[:, counts]).all(axis=0)
    np.add.at(values, part.slots, total)
    present[part.slots[there]] = True


def _choose(
    operator: np.ufunc, rows: Floats, slots: Places, values: Floats, present: NDArray[np.bool_]
) -> None:
    fresh = slots[~present[slots]]
    values[fresh] = np.nan  # so that whatever comes first is taken
    operator.at(values, slots, operator.reduce(rows, axis=0))
    present[slots] = True


def _choose_recent(part: Part, rows: Floats, recent: dict[int, _Recent]) -> None:
    """Choose the value with the latest time; of equal times the one whose file comes first."""
    all_stamps = part.group.stamp_rows
    assert all_stamps is not None
    stamps = np.nan_to_num(all_stamps[:, part.columns], nan=0.0, posinf=np.inf, neginf=-np.inf)
    latest = stamps.max(axis=0)
    for column, (slot, stamp) in enumerate(zip(part.slots.tolist(), latest.tolist(), strict=True)):
        if stamp <= 0:
            continue  # stock shows nothing that has no time
        held = recent.get(slot)
        if held is not None and held[0] > stamp:
            continue
        ties = np.flatnonzero(stamps[:, column] == stamp)
        row = min(ties.tolist(), key=lambda row: part.group.sources[row].order)
        order = part.group.sources[row].order
        if held is None or stamp > held[0] or order < held[1]:
            recent[slot] = stamp, order, float(rows[row, column])


def _accumulate(series: HistogramSeries, values: Floats, present: NDArray[np.bool_]) -> None:
    total = np.cumsum(np.where(present[series.buckets], values[series.buckets], 0.0))
    values[series.buckets] = total
    values[series.count] = total[-1]
    present[series.count] = present[series.buckets].any()


# -- Disputes -------------------------------------------------------------------------------------


def _settle_dispute(family: Family, parts: Sequence[Part]) -> tuple[Family, tuple[float, ...]]:
    """Add up a family that shards disagree about, as stock does: file by file, in their order.

    The first file says what kind it is, the last one which mode its gauges have.
    """
    files = sorted(
        ((source, part) for part in parts for source in part.group.sources),
        key=lambda file: file[0].order,
    )
    kind, mode = files[0][1].group.kind, ""
    tally = _Tally(family.name)
    read: list[tuple[Key, Labels, float, float]] = []
    for source, part in files:
        group = part.group
        pid = (
            (("pid", str(source.shard.pid)),) if group.kind == "gauge" and source.shard.pid else ()
        )
        if group.kind == "gauge":
            mode = group.mode.removeprefix("live")
        for column in part.columns.tolist():
            key, value = group.keys[column], float(group.values[source.row, column])
            stamp = 0.0 if group.stamps is None else float(group.stamps[source.row, column])
            if value == value or not is_count(group.kind, key):  # noqa: PLR0124  NaN: never good
                read.append((key, key.labels + pid, value, stamp))
    for key, labels, value, stamp in read:
        tally.add(kind, mode, key.name, labels, value, stamp)
    samples, values = tally.finish(kind)
    return Family(family.name, kind, family.help, samples), values


@dataclass(slots=True)
class _Tally:
    family: str
    values: dict[tuple[str, Labels], float] = field(default_factory=dict)
    stamps: dict[tuple[str, Labels], float] = field(default_factory=dict)
    buckets: defaultdict[Labels, defaultdict[float, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )

    def add(
        self, kind: str, mode: str, name: str, labels: Labels, value: float, stamp: float
    ) -> None:
        if kind == "gauge" and mode != "all":
            labels = tuple(pair for pair in labels if pair[0] != "pid")
        series = name, labels
        bounds = [text for label, text in labels if label == "le"] if kind == "histogram" else []
        if bounds:
            without = tuple(pair for pair in labels if pair[0] != "le")
            self.buckets[without][_parse_bound(bounds[0])] += value
        elif kind != "gauge" or mode == "sum":
            self.values[series] = self.values.get(series, 0.0) + value
        elif mode == "all":
            self.values[series] = value
        elif mode == "mostrecent":
            if stamp > self.stamps.get(series, 0.0):
                self.values[series], self.stamps[series] = value, stamp
        else:
            held = self.values.setdefault(series, value)
            if (value < held) if mode == "min" else (value > held):
                self.values[series] = value

    def finish(self, kind: str) -> tuple[tuple[Sample, ...], tuple[float, ...]]:
        if kind == "histogram":
            for labels, bounds in self.buckets.items():
                total = 0.0
                for bound in sorted(bounds):
                    total += bounds[bound]
                    shown = (*labels, ("le", render_bound(bound)))
                    self.values[f"{self.family}_bucket", shown] = total
                self.values[f"{self.family}_count", labels] = total
        samples = tuple(
            Sample(name, labels, slot) for slot, (name, labels) in enumerate(self.values)
        )
        return samples, tuple(self.values.values())


def _parse_bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a label `le` of another kind of metric
        return float("inf")
