"""What shards say, in rows and columns: groups of the same series, and the last good values.

What only counts up is judged here by its last good value. No file is read here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from telemetry.shards import HEADER_BYTES, Defect, Shard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telemetry.shards import Entry, Key

    Floats: TypeAlias = NDArray[np.float64]
    Indices: TypeAlias = NDArray[np.int32]

# An open claim will have a number above all that there are.
_OPEN_ORDER: Final = 1 << 62

# A source's place among the sources: of two with the same series, the later one has the last word.
Order: TypeAlias = tuple[bool, int, str]
# Kind, gauge mode and keys: what a group and a layout go by.
Name: TypeAlias = tuple[str, str, tuple[bytes, ...]]


@dataclass(eq=False, slots=True)
class Source:
    """One shard file, by its inode: where it lies now, its descriptor, its layout and its row.

    Without a layout nothing has been written to it yet, or nothing of it can be read.
    """

    shard: Shard
    claim: int | None  # what holds it: None the flat directory, else a claim (0: still open)
    descriptor: int | None = None
    layout: Layout | None = None
    group: Group | None = None
    row: int = 0
    end: int = HEADER_BYTES  # the bytes that have been parsed
    listed: bool = True  # False: no directory holds it any more
    fresh: bool = False  # its values have just been read, for this scrape
    order: Order = field(init=False)

    def __post_init__(self) -> None:
        """Find its place among the sources."""
        self.place(self.shard, self.claim)

    def place(self, shard: Shard, claim: int | None) -> None:
        """Note where it lies now: claims come first, by number, then what is flat, by name."""
        self.shard, self.claim, self.listed = shard, claim, True
        self.order = claim is None, claim or _OPEN_ORDER, shard.name


@dataclass(eq=False, slots=True, weakref_slot=True)
class Layout:
    """The series of a file in its own order: where each of its group's values lies."""

    group: Group
    raw: tuple[bytes, ...]
    index: Indices  # of each value, in words
    end: int
    whole: bool  # every key names a series
    grown: WeakValueDictionary[tuple[bytes, ...], Layout] = field(
        default_factory=WeakValueDictionary
    )


@dataclass(eq=False, slots=True, weakref_slot=True)
class Group:
    """The sources that hold the same series, in whatever order: one row each, a column a series.

    `values` and `stamps` (the timestamps, of `mostrecent` gauges only) are rows x columns; NaN
    in one of the first `counts` columns says that no good value was ever read.
    """

    kind: str
    mode: str
    raw: tuple[bytes, ...]
    keys: tuple[Key, ...]
    counts: int
    sources: list[Source] = field(default_factory=list)
    values: Floats = field(init=False)
    stamps: Floats | None = None
    _index: Indices | None = None
    _ends: Indices | None = None

    def __post_init__(self) -> None:
        """Begin without rows."""
        self.values = np.empty((0, len(self.raw)))
        if self.mode.endswith("mostrecent"):
            self.stamps = np.empty((0, len(self.raw)))

    # -- Rows -------------------------------------------------------------------------------------

    def add(self, sources: list[Source], values: Floats, stamps: Floats | None) -> None:
        """Add rows, each its source's from now on."""
        first = len(self.sources)
        end = first + len(sources)
        if end > len(self.values):
            self.values = _grow(self.values, end)
            self.stamps = None if self.stamps is None else _grow(self.stamps, end)
        self.values[first:end] = values
        if self.stamps is not None and stamps is not None:
            self.stamps[first:end] = stamps
        self.sources += sources
        for row, source in enumerate(sources, first):
            source.group, source.row = self, row
        self._index = self._ends = None

    def remove(self, source: Source) -> None:
        """Remove a source's row; the last one takes its place."""
        last = self.sources.pop()
        if last is not source:
            self.sources[source.row] = last
            self.values[source.row] = self.values[last.row]
            if self.stamps is not None:
                self.stamps[source.row] = self.stamps[last.row]
            last.row = source.row
        source.group = None
        self._index = self._ends = None
        if not self.sources:  # a layout may keep it for those to come
            self.__post_init__()

    @property
    def rows(self) -> Floats:
        """The values of the sources there are."""
        return self.values[: len(self.sources)]

    @property
    def stamp_rows(self) -> Floats | None:
        """The timestamps of the sources there are."""
        return None if self.stamps is None else self.stamps[: len(self.sources)]

    def find_index(self) -> Indices:
        """Find where each value lies, in words: one row when all sources agree, else a row each."""
        if self._index is None:
            layouts = [source.layout for source in self.sources if source.layout is not None]
            if all(layout is layouts[0] for layout in layouts):
                self._index = layouts[0].index
            else:
                self._index = np.stack([layout.index for layout in layouts])
        return self._index

    def find_ends(self) -> Indices:
        """Find how many bytes each source is known to use."""
        if self._ends is None:
            self._ends = np.array([source.end for source in self.sources], dtype=np.int32)
        return self._ends

    # -- Good values ------------------------------------------------------------------------------

    def judge(self, rows: slice, values: Floats) -> list[tuple[Source, Defect]]:
        """Hold what only counts up at its last good value while it is below it, or no number."""
        defects: list[tuple[Source, Defect]] = []
        if not self.counts:
            return defects
        new, last = values[:, : self.counts], self.values[rows, : self.counts]
        risen = new >= last
        if risen.all():
            return defects
        for row in np.flatnonzero(~risen.all(axis=1)):
            source, counts, before = self.sources[rows][row], new[row], last[row]
            valid = counts >= 0
            fell = valid & (counts < before)
            if not valid.all():
                defects.append((source, Defect.VALUE))
            if fell.any():
                defects.append((source, Defect.FELL))
            new[row] = np.where(valid & ~fell, counts, before)
        return defects

    def judge_first(self, sources: list[Source], values: Floats) -> list[tuple[Source, Defect]]:
        """Take what cannot be a count for no value; nothing was read of these sources before."""
        counts = values[:, : self.counts]
        valid = counts >= 0
        if valid.all():
            return []
        counts[~valid] = np.nan
        return [(sources[row], Defect.VALUE) for row in np.flatnonzero(~valid.all(axis=1))]

    def entries(self, source: Source) -> list[Entry]:
        """Give a source's last good values by raw key."""
        values = self.values[source.row].tolist()
        stamps = [0.0] * len(values)
        if self.stamps is not None:
            stamps = self.stamps[source.row].tolist()
        return [
            (key, value, stamp)
            for column, (key, value, stamp) in enumerate(zip(self.raw, values, stamps, strict=True))
            if column >= self.counts or value == value  # noqa: PLR0124  NaN: never a good one
        ]


def _grow(rows: Floats, least: int) -> Floats:
    grown = np.full((max(4, least, 2 * len(rows)), rows.shape[1]), np.nan)
    grown[: len(rows)] = rows
    return grown
