"""What every shard says: layouts parsed once, values read in bulk, the last good ones kept.

It keeps the shards open and reads them with `pread`, never through a mapping. It neither lists
nor judges directories: it is told which shards there are. Nothing a file holds raises here.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from telemetry.processes import is_alive
from telemetry.shards import (
    HEADER_BYTES,
    Defect,
    Entry,
    Key,
    Shard,
    ShardError,
    is_count,
    is_starved,
    open_shard,
    parse_key,
    parse_slots,
    parse_used,
    render_shard,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Indices: TypeAlias = NDArray[np.int32]

# The first read of a shard not seen before; few are longer.
_FIRST_READ_BYTES: Final = 16 * 1024
# Rows of one layout are read a megabyte at a time: it stays in the processor's cache.
_SCRATCH_BYTES: Final = 1 << 20
_WORD: Final = 8
# Layouts that a new shard is compared with before it is parsed, for each length in use.
_CANDIDATES: Final = 2
_CANDIDATE_LENGTHS: Final = 256
# A value and its time are two words: read until two readings agree, or this often.
_PAIR_READINGS: Final = 8
# An open claim will have a number above all that there are.
_OPEN_ORDER: Final = 1 << 62
_KEYS_SLACK: Final = 10_000


# A source's place among the sources: of two with the same series, the later one has the last word.
Order: TypeAlias = tuple[bool, int, str]
# Kind, gauge mode and keys: what a group and a layout go by.
Name: TypeAlias = tuple[str, str, tuple[bytes, ...]]


class Placed(NamedTuple):
    """A shard, and what holds it: None the flat directory, else a claim (0: still open)."""

    shard: Shard
    claim: int | None


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
    _index: Indices | None = None  # of each value, in words: a row for all, or a row each
    _ends: Indices | None = None

    def __post_init__(self) -> None:
        """Begin without rows."""
        self.values = np.empty((0, len(self.raw)))
        if self.mode.endswith("mostrecent"):
            self.stamps = np.empty((0, len(self.raw)))

    def add(self, source: Source, values: Floats, stamps: Floats | None) -> None:
        """Add a row, which is the source's from now on."""
        row = len(self.sources)
        if row == len(self.values):
            self.values = _grow(self.values)
            self.stamps = None if self.stamps is None else _grow(self.stamps)
        self.values[row] = values
        if self.stamps is not None and stamps is not None:
            self.stamps[row] = stamps
        self.sources.append(source)
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

    @property
    def rows(self) -> Floats:
        """The values of the sources there are."""
        return self.values[: len(self.sources)]

    @property
    def stamp_rows(self) -> Floats | None:
        """The timestamps of the sources there are."""
        return None if self.stamps is None else self.stamps[: len(self.sources)]

    def find_index(self) -> Indices:
        """Find where each value lies: one row when all sources agree, else a row each."""
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


@dataclass(eq=False, slots=True, weakref_slot=True)
class Layout:
    """The series of a file in its own order: where each of its group's values lies."""

    group: Group
    raw: tuple[bytes, ...]
    index: Indices
    end: int
    whole: bool  # every key names a series
    grown: WeakValueDictionary[tuple[bytes, ...], Layout] = field(
        default_factory=WeakValueDictionary
    )
    _template: tuple[NDArray[np.intp], NDArray[np.int64]] | None = None

    def matches(self, words: NDArray[np.int64]) -> bool:
        """Tell whether a shard as long as this layout has the same keys in the same places."""
        if self._template is None:
            blank = render_shard((key, 0.0, 0.0) for key in self.raw)
            template = np.frombuffer(blank, dtype=np.int64)
            where = np.ones(len(template), dtype=bool)
            values = _find_value_words(self.raw)
            where[values] = where[values + 1] = False
            fixed = np.flatnonzero(where)
            self._template = fixed, template[fixed]
        fixed, expected = self._template
        return bool(np.array_equal(words[fixed], expected))

    def forget_template(self) -> None:
        """Give back what it takes to compare; it is made again when needed."""
        self._template = None


@dataclass(eq=False, slots=True)
class Source:
    """One shard file, by its inode: where it lies now, its descriptor, its layout and its row.

    Without a layout nothing has been written to it yet, or nothing of it can be read.
    """

    shard: Shard
    claim: int | None
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

        self.order = claim is None, claim or _OPEN_ORDER, shard.path.name


class Readings:
    """Every shard there is, and its last good values.

    `version` counts up when the series or the order of the sources may have changed.
    """

    def __init__(self, *, descriptor_limit: int) -> None:
        self.sources: dict[int, Source] = {}
        self.groups: dict[Name, Group] = {}  # those that have a source
        self.version = 0
        self._descriptors_left = descriptor_limit
        self._layouts: WeakValueDictionary[Name, Layout] = WeakValueDictionary()
        self._groups: WeakValueDictionary[Name, Group] = WeakValueDictionary()
        self._candidates: OrderedDict[tuple[str, str, int], list[Layout]] = OrderedDict()
        self._keys: dict[tuple[str, bytes], tuple[bytes, Key | None]] = {}
        self._defects: dict[int, set[Defect]] = {}
        self._fresh: list[Source] = []
        self._partial: set[int] = set()  # the sources with keys that name no series
        self._refused: dict[int, tuple[Shard, Defect]] = {}
        self.starved = False  # a shard could not be read for want of descriptors or memory
        self._disowned = 0
        self._scratch = np.empty(_SCRATCH_BYTES // _WORD)

    # -- Which shards there are -------------------------------------------------------------------

    def sync(self, listed: Sequence[Placed]) -> None:
        """Take in new shards and new places; a shard listed twice counts once, where first.

        One that is listed nowhere any more stays with its values: only live gauges end so.
        Raises FileNotFoundError when a new one has gone again: the listing is to be made anew.
        """
        present: set[int] = set()
        refused: dict[int, tuple[Shard, Defect]] = {}
        vanished: FileNotFoundError | None = None
        self.starved = False
        for shard, claim in listed:
            if shard.inode in present:
                continue
            present.add(shard.inode)
            source = self._find_source(shard)
            if source is None:
                try:
                    self._admit(Source(shard, claim))
                except FileNotFoundError as error:
                    vanished = error  # the others are taken in: the next listing has less to do
                except (OSError, ShardError) as error:
                    refused[shard.inode] = shard, _find_defect(error)
                    self.starved = self.starved or is_starved(error)
            elif source.shard is not shard or source.claim != claim or not source.listed:
                source.place(shard, claim)
                self.version += 1
        if vanished is not None:
            raise vanished
        self._refused = refused
        if len(present) - len(refused) != len(self.sources):
            for inode in self.sources.keys() - present:
                self._miss(self.sources[inode])

    def find_missing(self, listed: Iterable[Placed]) -> bool:
        """Tell whether a shard that lay somewhere lies nowhere now."""
        present = {placed.shard.inode for placed in listed}
        return any(source.listed and inode not in present for inode, source in self.sources.items())

    def drop(self, sources: Iterable[Source]) -> None:
        """Forget these sources and their values."""
        for source in sources:
            if self.sources.pop(source.shard.inode, None) is None:
                continue
            self._leave_group(source)
            self._partial.discard(source.shard.inode)
            if source.descriptor is not None:
                os.close(source.descriptor)
                self._descriptors_left += 1
            self.version += 1

    def _find_source(self, shard: Shard) -> Source | None:
        """Find the source of a shard, None when there is none yet."""
        source = self.sources.get(shard.inode)
        if source is None or source.shard is shard or not self._is_other(source, shard):
            return source
        self._disown(source)
        return None

    def _is_other(self, source: Source, shard: Shard) -> bool:
        """Tell whether the inode of a source names another file now, which is this shard.

        A claim moves a shard, but neither renames it nor takes it to another file system. One
        that is held open keeps its inode to itself there.
        """
        former = source.shard
        if (former.path.name, former.device) == (shard.path.name, shard.device):
            return False
        if source.descriptor is None:
            return True
        return not os.path.samestat(os.fstat(source.descriptor), shard.path.lstat())

    def _disown(self, source: Source) -> None:
        """Let a source stay, though its file has gone, under a number that is no inode."""
        former = source.shard.inode
        self._disowned += 1
        source.shard = replace(source.shard, inode=-self._disowned)
        self.sources[source.shard.inode] = self.sources.pop(former)
        self._partial.discard(former)
        self._miss(source)

    def _miss(self, source: Source) -> None:
        if source.shard.live or source.layout is None:
            self.drop([source])
        else:
            source.listed = False

    def _admit(self, source: Source) -> None:
        """Open a shard and find its layout; nothing of it counts before its first reading."""
        descriptor = open_shard(source.shard.path)
        try:
            found = os.fstat(descriptor)
            if found.st_ino != source.shard.inode:  # another file took its name
                raise FileNotFoundError(source.shard.path)
            self.sources[source.shard.inode] = source
            self._extend(source, descriptor)
        finally:
            if self._descriptors_left > 0 and source.shard.inode in self.sources:
                source.descriptor = descriptor
                self._descriptors_left -= 1
            else:
                os.close(descriptor)
        self.version += 1

    # -- Reading ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a reading: what was wrong at the last one is forgotten."""
        self._defects = {}

    def refresh(self) -> None:
        """Read every source; each keeps its last good values where the new ones are none."""
        pending = [source for source in self.sources.values() if source.layout is None]
        grown: list[Source] = []
        for group in list(self.groups.values()):
            grown += self._refresh_group(group)
        for source in (*pending, *grown):
            self._extend_now(source)
        for source in self._fresh:
            source.fresh = False
        self._fresh.clear()

    def _refresh_group(self, group: Group) -> list[Source]:
        """Read the rows of one group; return the sources that have grown."""
        # A pair just read may be torn apart, so those are read again in any case.
        if group.stamps is None and all(source.fresh for source in group.sources):
            return []
        grown: list[Source] = []
        index, ends = group.find_index(), group.find_ends()
        width = -(-int(ends.max()) // _WORD)
        if width > len(self._scratch):
            self._scratch = np.empty(width)
        step = len(self._scratch) // width
        for start in range(0, len(group.sources), step):
            rows = slice(start, min(start + step, len(group.sources)))
            odd = self._read_rows(group, rows, index, ends, width)
            for source, used in odd:
                if used > source.end:
                    grown.append(source)
                else:
                    self._note(source, Defect.HEADER)
        return grown

    def _read_rows(
        self, group: Group, rows: slice, index: Indices, ends: Indices, width: int
    ) -> list[tuple[Source, int]]:
        """Read some rows and take over what is good; return those of another length than known."""
        sources = group.sources[rows]
        block = self._scratch[: len(sources) * width].reshape(len(sources), width)
        came = self._fill(block, sources)
        used = block.view(np.int32)[:, 0]
        odd = [int(row) for row in np.flatnonzero(used != ends[rows]) if row not in came]
        where = index if index.ndim == 1 else index[rows]
        values, stamps = _gather(block, where), None
        if group.stamps is not None:
            stamps = _gather(block, where + 1)
            self._settle(block, sources, where, values, stamps)
        # Where the header is garbage, or the end did not come, the last good values stand.
        for row in (*came, *(row for row in odd if used[row] < ends[rows][row])):
            whole = came.get(row, 0) if used[row] >= HEADER_BYTES else 0
            places = where if where.ndim == 1 else where[row]
            kept = (places + 2) * _WORD > whole
            values[row, kept] = group.values[rows][row, kept]
            if stamps is not None and group.stamps is not None:
                stamps[row, kept] = group.stamps[rows][row, kept]
        if stamps is not None and group.stamps is not None:
            group.stamps[rows] = stamps
        self._judge(group, rows, values)
        group.values[rows] = values
        return [(sources[row], int(used[row])) for row in odd]

    def _fill(self, block: Floats, sources: Sequence[Source]) -> dict[int, int]:
        """Read a row for each source; return how many bytes came of those that are not whole."""
        came: dict[int, int] = {}
        stride = block.shape[1] * _WORD
        room = block.data.cast("B")
        at, preadv = 0, os.preadv
        for row, source in enumerate(sources):
            end = source.end
            try:
                if source.descriptor is not None:
                    got = preadv(source.descriptor, (room[at : at + end],), 0)
                else:
                    got = _read_anew(source, room[at : at + end])
            except (OSError, ShardError) as error:
                self._note_failure(source, error)
                came[row] = 0
            else:
                if got != end:
                    self._note(source, Defect.TRUNCATED)
                    came[row] = got
            at += stride
        return came

    def _settle(
        self,
        block: Floats,
        sources: Sequence[Source],
        where: Indices,
        values: Floats,
        stamps: Floats,
    ) -> None:
        """Read pairs again until each equals its last reading: they may be torn apart."""
        for _ in range(_PAIR_READINGS):
            self._fill(block, sources)
            again, stamps_again = _gather(block, where), _gather(block, where + 1)
            same = np.array_equal(values, again, equal_nan=True) and np.array_equal(
                stamps, stamps_again, equal_nan=True
            )
            values[:], stamps[:] = again, stamps_again
            if same:
                return

    def _judge(self, group: Group, rows: slice, values: Floats) -> None:
        """Hold what only counts up at its last good value while it is below it, or no number."""
        if not group.counts:
            return
        new, last = values[:, : group.counts], group.values[rows, : group.counts]
        risen = new >= last
        if risen.all():
            return
        for row in np.flatnonzero(~risen.all(axis=1)):
            source, counts, before = group.sources[rows][row], new[row], last[row]
            valid = counts >= 0
            fell = valid & (counts < before)
            if not valid.all():
                self._note(source, Defect.VALUE)
            if fell.any():
                self._note(source, Defect.FELL)
            new[row] = np.where(valid & ~fell, counts, before)

    def _note_failure(self, source: Source, error: OSError | ShardError) -> None:
        self.starved = self.starved or is_starved(error)
        self._note(source, _find_defect(error))

    def _note(self, source: Source, defect: Defect) -> None:
        self._defects.setdefault(source.shard.inode, set()).add(defect)

    # -- Layouts ----------------------------------------------------------------------------------

    def _extend_now(self, source: Source) -> None:
        try:
            if source.descriptor is not None:
                self._extend(source, source.descriptor)
                return
            descriptor = open_shard(source.shard.path)
        except FileNotFoundError:
            return
        except (OSError, ShardError) as error:
            self._note_failure(source, error)
            return
        try:
            self._extend(source, descriptor)
        finally:
            os.close(descriptor)

    def _extend(self, source: Source, descriptor: int) -> None:
        """Parse what a source's file holds beyond what is known of it, and read its values."""
        try:
            data = _read_used(descriptor)
        except OSError:
            self._note(source, Defect.IO)
            return
        used, defect = parse_used(data)
        if defect is not None:
            self._note(source, defect)
            return
        if not used:
            if source.claim is not None or not is_alive(source.shard.pid):
                self._note(source, Defect.EMPTY)
            return
        layout, defect = self._find_layout(source, data, used)
        if defect is not None:
            self._note(source, defect)
        if layout is not source.layout:
            self._move(source, layout, data)

    def _find_layout(self, source: Source, data: bytes, used: int) -> tuple[Layout, Defect | None]:
        known, shard = source.layout, source.shard
        if known is None and used == len(data):
            words = np.frombuffer(data, dtype=np.int64) if used % _WORD == 0 else None
            candidates = self._candidates.get((shard.kind, shard.mode, used), ())
            for candidate in candidates:
                if words is not None and candidate.matches(words):
                    return candidate, None
        slots, _, defect = parse_slots(data, source.end, used)
        fresh = tuple(key for key, _ in slots)
        if known is not None:
            if not fresh:
                return known, defect
            layout = known.grown.get(fresh)
            if layout is None:
                layout = self._intern(shard, known.raw + fresh)
                known.grown[fresh] = layout
            return layout, defect
        return self._intern(shard, fresh), defect

    def _intern(self, shard: Shard, raw: tuple[bytes, ...]) -> Layout:
        """Find the layout of these keys in this order, or make it."""
        layout = self._layouts.get((shard.kind, shard.mode, raw))
        if layout is None:
            layout = self._build_layout(shard, raw)
            self._layouts[shard.kind, shard.mode, layout.raw] = layout
            length = (shard.kind, shard.mode, layout.end)
            candidates = self._candidates.setdefault(length, [])
            self._candidates.move_to_end(length)
            for former in candidates[_CANDIDATES - 1 :]:
                former.forget_template()
            candidates[:] = [layout, *candidates[: _CANDIDATES - 1]]
            if len(self._candidates) > _CANDIDATE_LENGTHS:
                self._candidates.popitem(last=False)
        return layout

    def _build_layout(self, shard: Shard, raw: tuple[bytes, ...]) -> Layout:
        parsed = [self._parse_key(shard.kind, key) for key in raw]
        raw = tuple(key for key, _ in parsed)
        words = _find_value_words(raw)
        columns: dict[bytes, tuple[Key, int]] = {}
        for (key, meaning), word in zip(parsed, words.tolist(), strict=True):
            if meaning is not None:
                columns[key] = meaning, word
        # What only counts up comes first, then by key: the same for every order in the files.
        ordered = sorted(columns, key=lambda key: (not is_count(shard.kind, columns[key][0]), key))
        name = (shard.kind, shard.mode, tuple(ordered))
        group = self._groups.get(name)
        if group is None:
            keys = tuple(columns[key][0] for key in ordered)
            counts = sum(is_count(shard.kind, key) for key in keys)
            group = Group(shard.kind, shard.mode, tuple(ordered), keys, counts)
            self._groups[name] = group
        index = np.array([columns[key][1] for key in ordered], dtype=np.int32)
        end = HEADER_BYTES if not raw else _WORD * (int(words[-1]) + 2)
        whole = len(ordered) == len(set(raw))
        return Layout(group, raw, index, end, whole)

    def _parse_key(self, kind: str, raw: bytes) -> tuple[bytes, Key | None]:
        """Parse a key once, and keep one copy of it."""
        found = self._keys.get((kind, raw))
        if found is None:
            known = sum(len(group.raw) for group in self.groups.values())
            if len(self._keys) > 4 * known + _KEYS_SLACK:
                self._keys.clear()
            found = self._keys[kind, raw] = raw, parse_key(raw, kind)
        return found

    def _move(self, source: Source, layout: Layout, data: bytes) -> None:
        """Give a source its new layout, with the values just read and judged."""
        former = self.entries(source)
        self._leave_group(source)
        group = layout.group
        self.groups[group.kind, group.mode, group.raw] = group
        source.layout, source.end, source.fresh = layout, layout.end, True
        self._fresh.append(source)
        if not layout.whole:
            self._partial.add(source.shard.inode)
        words = np.frombuffer(data[: layout.end], dtype=np.float64)
        values = words[layout.index]
        stamps = words[layout.index + 1] if group.stamps is not None else None
        if former:
            before = {key: value for key, value, _ in former}
            last = np.array([before.get(key, np.nan) for key in group.raw])
            group.add(source, last, stamps)
            row = slice(source.row, source.row + 1)
            self._judge(group, row, values[None, :])
            group.values[row] = values
        else:
            if not (values[: group.counts] >= 0).all():
                self._note(source, Defect.VALUE)
                values[: group.counts][~(values[: group.counts] >= 0)] = np.nan
            group.add(source, values, stamps)
        self.version += 1

    def _leave_group(self, source: Source) -> None:
        group = source.group
        if group is None:
            return
        group.remove(source)
        if not group.sources:
            self.groups.pop((group.kind, group.mode, group.raw), None)

    # -- What was read ----------------------------------------------------------------------------

    def entries(self, source: Source) -> list[Entry]:
        """Give a source's last good values by raw key: what a fold adds up."""
        group = source.group
        if group is None:
            return []
        values = group.values[source.row].tolist()
        stamps = [0.0] * len(values)
        if group.stamps is not None:
            stamps = group.stamps[source.row].tolist()
        counted = group.counts
        return [
            (key, value, stamp)
            for column, (key, value, stamp) in enumerate(
                zip(group.raw, values, stamps, strict=True)
            )
            if column >= counted or value == value  # noqa: PLR0124  NaN: never a good one
        ]

    def find_defects(self, source: Source) -> set[Defect]:
        """Find what was wrong with a source at its last reading."""
        found = set(self._defects.get(source.shard.inode, ()))
        return found | {Defect.KEY} if source.shard.inode in self._partial else found

    def list_defects(self) -> Iterator[tuple[Shard, set[Defect]]]:
        """List the shards something is wrong with, and what."""
        for inode in self._defects.keys() | self._partial:
            source = self.sources.get(inode)
            if source is not None and source.listed:
                yield source.shard, self.find_defects(source)
        for shard, defect in self._refused.values():
            yield shard, {defect}

    @property
    def refused(self) -> Mapping[int, tuple[Shard, Defect]]:
        """The shards that cannot be opened, by inode."""
        return self._refused

    def find_unlinked_dead(self) -> list[Source]:
        """Find the shards that were removed, and whose process is dead: nothing comes after."""
        return [
            source
            for source in self.sources.values()
            if not source.listed and _is_gone(source) and not is_alive(source.shard.pid)
        ]


# -- Small parts ----------------------------------------------------------------------------------


def _find_defect(error: OSError | ShardError) -> Defect:
    return error.defect if isinstance(error, ShardError) else Defect.IO


def _is_gone(source: Source) -> bool:
    """Whether no name leads to a source's file any more."""
    if source.shard.inode < 0:
        return True
    return source.descriptor is not None and os.fstat(source.descriptor).st_nlink == 0


def _grow(rows: Floats) -> Floats:
    grown = np.full((max(4, 2 * len(rows)), rows.shape[1]), np.nan)
    grown[: len(rows)] = rows
    return grown


def _gather(block: Floats, where: Indices) -> Floats:
    """Take the values at the same places of each row, or at each row's own."""
    if where.ndim == 1:
        return block[:, where]
    return np.take_along_axis(block, where.astype(np.intp), axis=1)


def _find_value_words(raw: Sequence[bytes]) -> NDArray[np.intp]:
    """Find the word that each key's value lies at."""
    lengths = np.array([len(key) for key in raw], dtype=np.intp)
    padded = 4 + lengths + 8 - (lengths + 4) % 8
    starts = HEADER_BYTES + np.cumsum(padded + 16) - (padded + 16)
    words: NDArray[np.intp] = (starts + padded) // _WORD
    return words


def _read_used(descriptor: int) -> bytes:
    """Read what a shard says is used, as far as it is there and can be understood."""
    data = os.pread(descriptor, _FIRST_READ_BYTES, 0)
    used, _ = parse_used(data)
    if len(data) < used and parse_slots(data, HEADER_BYTES, used)[2] is Defect.LENGTH:
        return data  # whatever the header says, nobody gets further than this
    while len(data) < used:
        more = os.pread(descriptor, used - len(data), len(data))
        if not more:
            break
        data += more
    return data[:used] if used else data


def _read_anew(source: Source, room: memoryview) -> int:
    """Open a source's file to fill the room from its beginning; return how many bytes came."""
    descriptor = open_shard(source.shard.path)
    try:
        if os.fstat(descriptor).st_ino != source.shard.inode:
            raise ShardError(Defect.IO, "another file has its name")
        return os.preadv(descriptor, [room], 0)
    finally:
        os.close(descriptor)
