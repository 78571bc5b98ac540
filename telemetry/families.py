"""From readings to families: what adds up with what, and then the adding up, in bulk.

The result is what prometheus_client's MultiProcessCollector makes of the same shards in the
order base, claims, flat by name. What belongs together is decided once (the plan), until the
series change; after that a scrape is arithmetic. It reads no file.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from telemetry.groups import Group, Source
from telemetry.shards import Shard, is_count, parse_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from telemetry.base import Base, Section
    from telemetry.groups import Order
    from telemetry.policy import LabelPolicy
    from telemetry.shards import Key

    Floats: TypeAlias = NDArray[np.float64]
    Places: TypeAlias = NDArray[np.intp]

Labels: TypeAlias = tuple[tuple[str, str], ...]
# A series of the page: family, sample name, labels (and, of a bucket, its bound).
_Series: TypeAlias = tuple[str, str, Labels, float | None]

# Gauges that every process has for itself, told apart by a label `pid`.
OWN_MODES: Final = frozenset({"all", "liveall"})
# The time, the source's place and the value of the most recent setting so far.
_Recent: TypeAlias = "tuple[float, Order, float]"
# Before every claim.
_BASE_ORDER: Final = -1


class Sample(NamedTuple):
    """A line of the page, and the slot its value comes from."""

    name: str
    labels: Labels
    slot: int


class Violation(NamedTuple):
    """A family that carries a label it must not, and who wrote it: pid (0: the dead) and shard."""

    family: str
    label: str
    pid: int
    shard: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family; its samples as the page has them."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The columns of a group that count, and the slot each adds to."""

    group: Group
    columns: Places
    slots: Places  # a slot for each column; of `all` gauges, for each row and column
    counts: int  # so many of the columns only count up


@dataclass(frozen=True, slots=True)
class HistogramSeries:
    """The buckets of one histogram in the order of their bounds, and the slot of its count."""

    buckets: Places
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What adds up with what."""

    families: tuple[Family, ...]
    size: int
    parts: tuple[Part, ...]
    histograms: tuple[HistogramSeries, ...]
    # Families that shards disagree about, by kind or mode; added up one by one, as stock does.
    disputed: Mapping[str, tuple[Part, ...]]
    violations: Mapping[Violation, int]  # and how many series


@dataclass(frozen=True, slots=True)
class Totals:
    """The values of a plan's slots, and which of them there are."""

    plan: Plan
    values: list[float]
    present: list[bool]
    disputed: tuple[tuple[Family, tuple[float, ...]], ...] = ()


# -- The base as groups ---------------------------------------------------------------------------


def build_base_groups(base: Base, former: Mapping[Section, Group]) -> dict[Section, Group]:
    """Present the base's sections as groups of one row; one with the same series stays itself."""
    groups: dict[Section, Group] = {}
    for section, series in base.sections.items():
        raw = tuple(series)
        known = former.get(section)
        group = known if known is not None and known.raw == raw else _build_group(section, raw)
        if group is None:
            continue
        group.values[0] = [value for value, _ in series.values()]
        if group.stamps is not None:
            group.stamps[0] = [stamp for _, stamp in series.values()]
        groups[section] = group
    return groups


def _build_group(section: Section, raw: tuple[bytes, ...]) -> Group | None:
    kind, mode, pid = section
    keys = [parse_key(key, kind) for key in raw]
    whole = tuple(key for key in keys if key is not None)
    if len(whole) != len(keys):
        return None
    group = Group(kind, mode, raw, whole, counts=0)
    source = Source(Shard(Path(), "", kind, mode, pid), _BASE_ORDER)
    group.add([source], np.zeros((1, len(raw))), np.zeros((1, len(raw))))
    return group


# -- Planning -------------------------------------------------------------------------------------


def build_plan(groups: Sequence[Group], policy: LabelPolicy | None) -> Plan:
    """Decide what adds up with what; the groups come in the order their series are looked at."""
    builder = _Builder(policy)
    for group in groups:
        for key in group.keys:
            builder.meet(group, key)
    builder.place(groups)
    return builder.build()


@dataclass(slots=True)
class _Builder:
    policy: LabelPolicy | None
    kinds: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    # Slot 0 is nobody's: what must not count goes there.
    slots: dict[_Series, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    disputed: defaultdict[str, list[Part]] = field(default_factory=lambda: defaultdict(list))
    violations: dict[Violation, int] = field(default_factory=dict)

    def find_violation(self, group: Group, key: Key) -> str | None:
        return None if self.policy is None else self.policy.find_violation(group.kind, key)

    def meet(self, group: Group, key: Key) -> None:
        """Note a family's kinds and modes; the first help it is met with is its help."""
        if self.find_violation(group, key) is None:
            kinds = self.kinds.setdefault(key.family, [])
            if (group.kind, group.mode) not in kinds:
                kinds.append((group.kind, group.mode))
            self.helps.setdefault(key.family, key.help)

    def place(self, groups: Sequence[Group]) -> None:
        """Give each column of each group its slot."""
        own: list[tuple[Group, list[int]]] = []
        for group in groups:
            columns = self._choose_columns(group)
            if not columns:
                continue
            if group.mode in OWN_MODES:
                own.append((group, columns))
                continue
            slots = [self._find_slot(_find_series(group, group.keys[c])) for c in columns]
            self._add_part(group, columns, np.array(slots, dtype=np.intp))
        self._place_own(own)

    def _choose_columns(self, group: Group) -> list[int]:
        """Choose the columns that simply add up; put the others where they belong."""
        columns: list[int] = []
        apart: defaultdict[str, list[int]] = defaultdict(list)
        for column, key in enumerate(group.keys):
            label = self.find_violation(group, key)
            if label is not None:
                for source in group.sources:
                    shard = source.shard
                    violation = Violation(key.family, label, shard.pid, shard.path.name)
                    self.violations[violation] = self.violations.get(violation, 0) + 1
            elif len(self.kinds[key.family]) > 1:
                apart[key.family].append(column)
            else:
                columns.append(column)
        for family, chosen in apart.items():
            places = np.array(chosen, dtype=np.intp)
            self.disputed[family].append(Part(group, places, places, 0))
        return columns

    def _place_own(self, groups: Sequence[tuple[Group, list[int]]]) -> None:
        """Give a process's own gauges their slots; of two files with the same, the later has it."""
        owners: dict[_Series, Source] = {}
        rows = [(source, group, columns) for group, columns in groups for source in group.sources]
        for source, group, columns in sorted(rows, key=lambda row: row[0].order):
            for column in columns:
                owners[_find_own_series(group.keys[column], source.shard.pid)] = source
        for group, columns in groups:
            slots = np.zeros((len(group.sources), len(columns)), dtype=np.intp)
            for row, source in enumerate(group.sources):
                for place, column in enumerate(columns):
                    series = _find_own_series(group.keys[column], source.shard.pid)
                    if owners[series] is source:
                        slots[row, place] = self._find_slot(series)
            self._add_part(group, columns, slots)

    def _find_slot(self, series: _Series) -> int:
        return self.slots.setdefault(series, len(self.slots) + 1)

    def _add_part(self, group: Group, columns: list[int], slots: Places) -> None:
        counts = sum(column < group.counts for column in columns)
        self.parts.append(Part(group, np.array(columns, dtype=np.intp), slots, counts))

    def build(self) -> Plan:
        """Put the families together, in the order they were met."""
        samples: defaultdict[str, list[Sample]] = defaultdict(list)
        buckets: defaultdict[tuple[str, Labels], dict[float, int]] = defaultdict(dict)
        for (family, name, labels, bound), slot in self.slots.items():
            if bound is None:
                samples[family].append(Sample(name, labels, slot))
            else:
                buckets[family, labels][bound] = slot
        size, histograms = len(self.slots) + 1, []
        for (family, labels), slots in buckets.items():
            ordered = sorted(slots)
            for bound in ordered:
                shown = (*labels, ("le", _render_bound(bound)))
                samples[family].append(Sample(f"{family}_bucket", shown, slots[bound]))
            # The count is what the buckets say, whatever a file may say of it.
            count = Sample(f"{family}_count", labels, size)
            kept = [s for s in samples[family] if (s.name, s.labels) != count[:2]]
            samples[family] = [*kept, count]
            places = np.array([slots[bound] for bound in ordered], dtype=np.intp)
            histograms.append(HistogramSeries(places, size))
            size += 1
        families = tuple(
            Family(name, kinds[0][0], self.helps[name], tuple(samples[name]))
            for name, kinds in self.kinds.items()
        )
        disputed = {name: tuple(parts) for name, parts in self.disputed.items()}
        return Plan(families, size, tuple(self.parts), tuple(histograms), disputed, self.violations)


def _find_series(group: Group, key: Key) -> _Series:
    """Find the series that a key adds to."""
    if group.kind == "gauge":  # stock takes a `pid` away from these, whoever set it
        labels = tuple(pair for pair in key.labels if pair[0] != "pid")
        return key.family, key.name, labels, None
    if group.kind == "histogram":
        for name, text in key.labels:
            if name == "le":
                labels = tuple(pair for pair in key.labels if pair[0] != "le")
                return key.family, "", labels, float(text)
    return key.family, key.name, key.labels, None


def _find_own_series(key: Key, pid: int) -> _Series:
    labels = (*(pair for pair in key.labels if pair[0] != "pid"), ("pid", str(pid)))
    return key.family, key.name, labels, None


def _render_bound(bound: float) -> str:
    # Imported here: the library may be missing, and must not be imported early (see page).
    from prometheus_client.utils import floatToGoString  # noqa: PLC0415

    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library's gap


# -- Adding up ------------------------------------------------------------------------------------


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
                    shown = (*labels, ("le", _render_bound(bound)))
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
