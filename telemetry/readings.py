"""What every shard says: which sources there are, and their last good values.

It keeps the shards open. It neither lists nor judges directories: it is told which shards there
are. Nothing a file holds raises here.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from telemetry.gathering import (
    Gatherer,
    Notes,
    find_defect,
    read_beyond,
    read_used,
    read_whole,
)
from telemetry.groups import Group, Source
from telemetry.layouts import Layouts
from telemetry.processes import is_alive
from telemetry.shards import Defect, Entry, Shard, ShardError, is_starved, open_found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from telemetry.groups import Floats, Layout, Name
    from telemetry.shards import Placed

# New shards that are opened before any of them is read; some more descriptors than are kept.
_ADMITTED_AT_ONCE: Final = 64
_ADMITTED_BEYOND_THE_LIMIT: Final = 8


class Readings:
    """Every shard there is, and its last good values.

    `version` counts up when the series or the order of the sources may have changed.
    """

    def __init__(self, *, descriptor_limit: int) -> None:
        self.sources: dict[int, Source] = {}
        self.groups: dict[Name, Group] = {}  # those that have a source
        self.version = 0
        self._descriptors_left = descriptor_limit
        self._layouts = Layouts()
        self._notes = Notes()
        self._gatherer = Gatherer(self._notes)
        self._fresh: list[Source] = []
        self._partial: set[int] = set()  # the sources with keys that name no series
        self._refused: dict[int, tuple[Shard, Defect]] = {}
        self._disowned = 0

    @property
    def starved(self) -> bool:
        """Whether a shard could not be read for want of descriptors or memory."""
        return self._notes.starved

    # -- Which shards there are -------------------------------------------------------------------

    def sync(self, listed: Sequence[Placed]) -> None:
        """Take in new shards and new places; a shard listed twice counts once, where first.

        One that is listed nowhere any more stays with its values: only live gauges end so.
        Raises FileNotFoundError when a new one has gone again: the listing is to be made anew.
        """
        present: set[int] = set()
        new: list[Source] = []
        for shard, claim in listed:
            if shard.inode in present:
                continue
            present.add(shard.inode)
            source = self._find_source(shard)
            if source is None:
                new.append(Source(shard, claim))
            elif source.shard is not shard or source.claim != claim or not source.listed:
                source.place(shard, claim)
                self.version += 1
        refused = self._refused = self._admit_all(new)
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
        if (former.name, former.device) == (shard.name, shard.device):
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

    # -- Admission --------------------------------------------------------------------------------

    def _admit_all(self, sources: Sequence[Source]) -> dict[int, tuple[Shard, Defect]]:
        """Open new shards and find their layouts; return those that cannot be opened.

        Nothing of a shard counts before its first reading. Raises FileNotFoundError when one has
        gone; all others are taken in.
        """
        refused: dict[int, tuple[Shard, Defect]] = {}
        vanished: FileNotFoundError | None = None
        start = 0
        while start < len(sources):
            at_once = max(
                _ADMITTED_BEYOND_THE_LIMIT, min(_ADMITTED_AT_ONCE, self._descriptors_left)
            )
            opened: list[Source] = []
            for source in sources[start : start + at_once]:
                try:
                    source.descriptor = _open(source.shard)
                except FileNotFoundError as error:
                    vanished = error  # the next listing has less to do
                except (OSError, ShardError) as error:
                    refused[source.shard.inode] = source.shard, find_defect(error)
                    self._notes.starved = self._notes.starved or is_starved(error)
                else:
                    opened.append(source)
            self._admit(opened)
            start += at_once
        if vanished is not None:
            raise vanished
        return refused

    def _admit(self, sources: Sequence[Source]) -> None:
        """Take in sources that have been opened; keep them open as far as the limit allows."""
        alike: defaultdict[tuple[str, str, int], list[Source]] = defaultdict(list)
        for source in sources:
            self.sources[source.shard.inode] = source
            alike[source.shard.kind, source.shard.mode, _find_used(source)].append(source)
        for (kind, mode, used), members in alike.items():
            self._admit_alike(kind, mode, used, members)
        for source in sources:
            if self._descriptors_left > 0:
                self._descriptors_left -= 1
            elif source.descriptor is not None:
                os.close(source.descriptor)
                source.descriptor = None
        self.version += len(sources)

    def _admit_alike(self, kind: str, mode: str, used: int, sources: list[Source]) -> None:
        """Take in sources of one kind and length: whole rows of those that are like a known one."""
        if not used:
            candidates: Sequence[Layout] = ()
        else:
            candidates = self._layouts.find_candidates(kind, mode, used)
            if not candidates and len(sources) > 1:
                self._extend(sources[0])
                sources = sources[1:]
                candidates = self._layouts.find_candidates(kind, mode, used)
        if candidates:
            step = self._gatherer.count_at_once(used)
            for start in range(0, len(sources), step):
                some = sources[start : start + step]
                block = self._gatherer.read_alike(some, used)
                for candidate in candidates:
                    matching = self._layouts.match(candidate, block.view(np.int64))
                    self._move_all(
                        [source for source, like in zip(some, matching, strict=True) if like],
                        candidate,
                        block[matching],
                    )
                    some = [source for source, like in zip(some, matching, strict=True) if not like]
                    block = block[~matching]
        for source in sources:
            if source.layout is None:
                self._extend(source)

    # -- Reading ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a reading: what was wrong at the last one is forgotten."""
        self._notes.clear()

    def refresh(self) -> None:
        """Read every source; each keeps its last good values where the new ones are none."""
        pending = [source for source in self.sources.values() if source.layout is None]
        grown: list[Source] = []
        for group in list(self.groups.values()):
            # A pair just read may be torn apart, so those are read again in any case.
            if group.stamps is not None or not all(source.fresh for source in group.sources):
                grown += self._gatherer.refresh(group)
        for source in (*pending, *grown):
            self._extend(source)
        for source in self._fresh:
            source.fresh = False
        self._fresh.clear()

    def _extend(self, source: Source) -> None:
        """Parse what a source's file holds beyond what is known of it, and read its values."""
        descriptor = source.descriptor
        try:
            if descriptor is None:
                descriptor = _open(source.shard)
            self._extend_from(source, descriptor)
        except FileNotFoundError:
            return
        except (OSError, ShardError) as error:
            self._notes.add_failure(source, error)
        finally:
            if descriptor is not None and source.descriptor is None:
                os.close(descriptor)

    def _extend_from(self, source: Source, descriptor: int) -> None:
        keys, used, defect = read_beyond(descriptor, source.end)
        if defect is not None:
            self._notes.add(source, defect)
        elif not used:
            if source.claim is not None or not is_alive(source.shard.pid):
                self._notes.add(source, Defect.EMPTY)
            return
        if not used:
            return
        former = source.layout
        if former is None:
            layout = self._layouts.find(source.shard.kind, source.shard.mode, keys)
        elif keys:
            layout = self._layouts.extend(former, keys)
        else:
            return
        data = read_whole(descriptor, layout.end)
        if len(data) < layout.end:
            self._notes.add(source, Defect.TRUNCATED)
        else:
            self._move(source, layout, np.frombuffer(data, dtype=np.float64))

    def _move_all(self, sources: list[Source], layout: Layout, files: Floats) -> None:
        """Give new sources their layout, with the values just read, a row each, and judged."""
        if not sources:
            return
        group = layout.group
        values = files.take(layout.index, axis=1)
        stamps = files.take(layout.index + 1, axis=1) if group.stamps is not None else None
        for source in sources:
            self._take_up(source, layout)
        for source, defect in group.judge_first(sources, values):
            self._notes.add(source, defect)
        group.add(sources, values, stamps)

    def _move(self, source: Source, layout: Layout, words: Floats) -> None:
        """Give a source its new layout, with the values just read and judged."""
        former = self.entries(source)
        if not former:
            self._leave_group(source)
            self._move_all([source], layout, words[None, :])
            return
        self._leave_group(source)
        self._take_up(source, layout)
        group = layout.group
        values = words[layout.index][None, :]
        stamps = words[layout.index + 1][None, :] if group.stamps is not None else None
        before = {key: value for key, value, _ in former}
        last = np.array([[before.get(key, np.nan) for key in group.raw]])
        group.add([source], last, stamps)
        row = slice(source.row, source.row + 1)
        for judged, defect in group.judge(row, values):
            self._notes.add(judged, defect)
        group.values[row] = values

    def _take_up(self, source: Source, layout: Layout) -> None:
        group = layout.group
        self.groups[group.kind, group.mode, group.raw] = group
        source.layout, source.end, source.fresh = layout, layout.end, True
        self._fresh.append(source)
        if not layout.whole:
            self._partial.add(source.shard.inode)
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
        return [] if source.group is None else source.group.entries(source)

    def find_defects(self, source: Source) -> set[Defect]:
        """Find what was wrong with a source at its last reading."""
        found = set(self._notes.defects.get(source.shard.inode, ()))
        return found | {Defect.KEY} if source.shard.inode in self._partial else found

    def list_defects(self) -> Iterator[tuple[Shard, set[Defect]]]:
        """List the shards something is wrong with, and what."""
        for inode in self._notes.defects.keys() | self._partial:
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

    def find_dead_gauges(self) -> list[Source]:
        """Find the live gauges of those who are dead."""
        sources = self.sources.values()
        return [one for one in sources if one.shard.live and not is_alive(one.shard.pid)]


# -- Small parts ----------------------------------------------------------------------------------


def _open(shard: Shard) -> int:
    """Open a shard that was listed; raises FileNotFoundError too when another took its name."""
    descriptor, found = open_found(f"{shard.directory}/{shard.name}")
    if found.st_ino != shard.inode:
        os.close(descriptor)
        raise FileNotFoundError(shard.path)
    return descriptor


def _find_used(source: Source) -> int:
    """Find how many bytes a source says it uses; 0 when that is nothing to go by."""
    if source.descriptor is None:
        return 0
    try:
        return read_used(source.descriptor)
    except OSError:
        return 0


def _is_gone(source: Source) -> bool:
    """Whether no name leads to a source's file any more."""
    if source.shard.inode < 0:
        return True
    return source.descriptor is not None and os.fstat(source.descriptor).st_nlink == 0
