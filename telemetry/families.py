"""From readings to families: what adds up with what is decided once, until the series change.

The plan is what prometheus_client's MultiProcessCollector would go by for the same shards in the
order base, claims, flat by name; `telemetry.adding` does the arithmetic. It reads no file.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from telemetry.groups import Group, Source
from telemetry.plan import Family, HistogramSeries, Labels, Part, Plan, Sample, Violation
from telemetry.shards import Shard, parse_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from telemetry.base import Base, Section
    from telemetry.plan import Places
    from telemetry.policy import LabelPolicy
    from telemetry.shards import Key

# A series of the page: family, sample name, labels (and, of a bucket, its bound).
_Series: TypeAlias = tuple[str, str, Labels, float | None]

# Gauges that every process has for itself, told apart by a label `pid`.
OWN_MODES: Final = frozenset({"all", "liveall"})
# Before every claim.
_BASE_ORDER: Final = -1


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
                shown = (*labels, ("le", render_bound(bound)))
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


def render_bound(bound: float) -> str:
    """Write the bound of a bucket as prometheus_client does."""
    # Imported here: the library may be missing, and must not be imported early (see page).
    from prometheus_client.utils import floatToGoString  # noqa: PLC0415

    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library's gap
