"""Reading shards in bulk: the rows of a group, and new shards that may be like known ones.

It reads with `pread` and `preadv` into one piece of memory, never through a mapping. What a file
holds and what the system refuses become notes, never exceptions.
"""

from __future__ import annotations

import os
from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from telemetry.shards import (
    HEADER_BYTES,
    WORD,
    Defect,
    ShardError,
    is_starved,
    open_found,
    parse_slots,
    parse_used,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telemetry.groups import Floats, Group, Indices, Source

    # What `preadv` reads one file into.
    Room: TypeAlias = tuple[memoryview]

# So much is read before it is looked at: it stays in the processor's cache.
_SCRATCH_BYTES: Final = 1 << 20
_ROWS_AT_ONCE: Final = 1024
_ROOMS_KEPT: Final = 16
# What is looked at before the rest of a file is read; few are longer.
_FIRST_READ_BYTES: Final = 16 * 1024
# A value and its time are two words: read until two readings agree, or this often.
_PAIR_READINGS: Final = 8


class Notes:
    """What was wrong with each source at its last reading."""

    def __init__(self) -> None:
        self.defects: dict[int, set[Defect]] = {}  # by inode
        self.starved = False  # something could not be read for want of descriptors or memory

    def clear(self) -> None:
        """Forget what was wrong."""
        self.defects.clear()
        self.starved = False

    def add(self, source: Source, defect: Defect) -> None:
        """Note what is wrong with a source."""
        self.defects.setdefault(source.shard.inode, set()).add(defect)

    def add_failure(self, source: Source, error: OSError | ShardError) -> None:
        """Note why a source could not be read."""
        self.starved = self.starved or is_starved(error)
        self.add(source, find_defect(error))


def find_defect(error: OSError | ShardError) -> Defect:
    """Find what an error says of a shard."""
    return error.defect if isinstance(error, ShardError) else Defect.IO


class Gatherer:
    """Reads sources that are alike into one piece of memory, and picks their values from it."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._scratch = np.empty(_SCRATCH_BYTES // WORD)
        self._rooms: dict[tuple[int, int], list[Room]] = {}

    # -- The rows of a group ----------------------------------------------------------------------

    def refresh(self, group: Group) -> list[Source]:
        """Read the rows of a group, take over what is good; return the sources that have grown."""
        grown: list[Source] = []
        index, ends = group.find_index(), group.find_ends()
        step = self._make_room(int(ends.max()))
        for start in range(0, len(group.sources), step):
            rows = slice(start, min(start + step, len(group.sources)))
            where = index if index.ndim == 1 else index[rows]
            for source, used in self._refresh_rows(group, rows, where, ends[rows]):
                if used > source.end:
                    grown.append(source)
                else:
                    self._notes.add(source, Defect.HEADER)
        return grown

    def _refresh_rows(
        self, group: Group, rows: slice, where: Indices, ends: Indices
    ) -> list[tuple[Source, int]]:
        """Read some rows and take over what is good; return those of another length than known."""
        sources = group.sources[rows]
        block, rooms = self._lay_out(ends)
        came = self._fill(sources, rooms, ends)
        used = block.view(np.int32)[:, 0]
        odd = [row for row in np.flatnonzero(used != ends).tolist() if row not in came]
        values, stamps = _pick(block, where), None
        if group.stamps is not None:
            stamps = _pick(block, where + 1)
            for _ in range(_PAIR_READINGS):
                self._fill(sources, rooms, ends)
                if _settle(values, _pick(block, where)) & _settle(stamps, _pick(block, where + 1)):
                    break
        # Where the header is garbage, or the end did not come, the last good values stand.
        for row in (*came, *(row for row in odd if used[row] < ends[row])):
            whole = came.get(row, 0) if used[row] >= HEADER_BYTES else 0
            places = where if where.ndim == 1 else where[row]
            kept = (places + 2) * WORD > whole
            values[row, kept] = group.values[rows][row, kept]
            if stamps is not None and group.stamps is not None:
                stamps[row, kept] = group.stamps[rows][row, kept]
        if stamps is not None and group.stamps is not None:
            group.stamps[rows] = stamps
        for source, defect in group.judge(rows, values):
            self._notes.add(source, defect)
        group.values[rows] = values
        return [(sources[row], int(used[row])) for row in odd]

    # -- New shards -------------------------------------------------------------------------------

    def count_at_once(self, length: int) -> int:
        """Count how many files of this length are read before they are looked at."""
        return self._make_room(length)

    def read_alike(self, sources: Sequence[Source], length: int) -> NDArray[np.float64]:
        """Read new sources that say they use so many bytes; a row whose bytes did not come is 0."""
        self._make_room(length)
        ends = np.full(len(sources), length, dtype=np.int32)
        block, rooms = self._lay_out(ends)
        for row in self._fill(sources, rooms, ends):
            block[row] = 0.0
        return block

    # -- Memory -----------------------------------------------------------------------------------

    def _make_room(self, length: int) -> int:
        """Make room for files of a length, in bytes; say how many at once."""
        width = -(-length // WORD)
        if width > len(self._scratch):
            self._scratch = np.empty(width)
            self._rooms.clear()
        return min(_ROWS_AT_ONCE, len(self._scratch) // width)

    def _lay_out(self, ends: Indices) -> tuple[Floats, list[Room]]:
        """Lay out a row for each file, and the room in it that its bytes in use go to."""
        width = -(-int(ends.max()) // WORD)
        block = self._scratch[: len(ends) * width].reshape(len(ends), width)
        if (ends != ends[0]).any():
            return block, _list_rooms(block, ends.tolist())
        kept = self._rooms.get((width, int(ends[0])))
        if kept is None or len(kept) < len(ends):
            if len(self._rooms) >= _ROOMS_KEPT:
                self._rooms.clear()
            kept = self._rooms[width, int(ends[0])] = _list_rooms(block, ends.tolist())
        return block, kept if len(kept) == len(ends) else kept[: len(ends)]

    def _fill(
        self, sources: Sequence[Source], rooms: Sequence[Room], ends: Indices
    ) -> dict[int, int]:
        """Read a row for each source; return how many bytes came of those that are not whole."""
        descriptors = [source.descriptor for source in sources]
        try:
            got = list(map(os.preadv, descriptors, rooms, repeat(0)))  # type: ignore[arg-type]
        except (OSError, TypeError):  # one fails, or has no descriptor
            return self._fill_one_by_one(sources, rooms)
        came = {row: got[row] for row in np.flatnonzero(np.array(got) != ends).tolist()}
        for row in came:
            self._notes.add(sources[row], Defect.TRUNCATED)
        return came

    def _fill_one_by_one(self, sources: Sequence[Source], rooms: Sequence[Room]) -> dict[int, int]:
        came: dict[int, int] = {}
        for row, (source, room) in enumerate(zip(sources, rooms, strict=True)):
            try:
                if source.descriptor is not None:
                    got = os.preadv(source.descriptor, room, 0)
                else:
                    got = _read_anew(source, room)
            except (OSError, ShardError) as error:
                self._notes.add_failure(source, error)
                came[row] = 0
            else:
                if got != len(room[0]):
                    self._notes.add(source, Defect.TRUNCATED)
                    came[row] = got
        return came


def _list_rooms(block: Floats, ends: Sequence[int]) -> list[Room]:
    room, stride = block.data.cast("B"), block.shape[1] * WORD
    return [(room[row * stride : row * stride + end],) for row, end in enumerate(ends)]


def _pick(block: Floats, where: Indices) -> Floats:
    """Take the values at the same places of each row, or at each row's own."""
    if where.ndim == 1:
        return block.take(where, axis=1)
    starts = np.arange(0, block.size, block.shape[1])
    return block.reshape(-1).take(where + starts[:, None])


def _settle(values: Floats, again: Floats) -> bool:
    """Take over another reading; tell whether it says the same."""
    same = np.array_equal(values, again, equal_nan=True)
    values[:] = again
    return same


# -- One file -------------------------------------------------------------------------------------


def read_used(descriptor: int) -> int:
    """Read how many bytes a shard says it uses; 0 when that cannot be. Raises OSError."""
    used, _ = parse_used(os.pread(descriptor, HEADER_BYTES, 0))
    return used


def read_beyond(descriptor: int, start: int) -> tuple[tuple[bytes, ...], int, Defect | None]:
    """Read the keys that a shard has from `start` on; how much it uses, and what is wrong.

    Of garbage no more is read than the beginning. Raises OSError.
    """
    head = os.pread(descriptor, _FIRST_READ_BYTES if start == HEADER_BYTES else HEADER_BYTES, 0)
    used, defect = parse_used(head)
    if defect is not None or used <= start:
        return (), used, defect
    length = used - start
    data = head[start:used]
    if start != HEADER_BYTES:
        data = os.pread(descriptor, min(length, _FIRST_READ_BYTES), start)
    slots, position, defect = parse_slots(data, 0, length)
    if defect is Defect.TRUNCATED and len(data) < length:
        data += read_whole(descriptor, length - len(data), start + len(data))
        more, _, defect = parse_slots(data, position, length)
        slots += more
    return tuple(key for key, _ in slots), used, defect


def read_whole(descriptor: int, length: int, start: int = 0) -> bytes:
    """Read so many bytes, or as many as there are. Raises OSError."""
    data = os.pread(descriptor, length, start)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


def _read_anew(source: Source, room: Room) -> int:
    """Open a source's file to fill the room from its beginning; return how many bytes came."""
    descriptor, found = open_found(source.shard.path)
    try:
        if found.st_ino != source.shard.inode:
            raise ShardError(Defect.IO, "another file has its name")
        return os.preadv(descriptor, room, 0)
    finally:
        os.close(descriptor)
