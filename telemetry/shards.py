"""The shard directory: what lies in it, and bounds-checked reading of its files.

Standard library only. It reads and changes nothing; whatever bytes a file holds, reading it
ends in entries and named defects, never in an exception, and never through a mapping, which a
truncation would turn into SIGBUS.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from telemetry.shard_format import (
    GAUGE_MODES,
    HEADER_BYTES,
    SHARD_LIMIT_BYTES,
    SHARD_PREFIXES,
    WORD,
    Defect,
    Entry,
    Key,
    Slot,
    is_count,
    parse_key,
    parse_shard_name,
    parse_slots,
    parse_used,
    parse_values,
    render_shard,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# This is the door to the format, too.
__all__ = [
    "GAUGE_MODES",
    "HEADER_BYTES",
    "NOTHING",
    "RETIRED",
    "SHARD_LIMIT_BYTES",
    "SHARD_PREFIXES",
    "WORD",
    "Defect",
    "DirectoryMark",
    "Entry",
    "Key",
    "Listing",
    "Shard",
    "ShardError",
    "Slot",
    "Stillness",
    "is_count",
    "is_starved",
    "list_directory",
    "list_shards",
    "open_found",
    "open_shard",
    "parse_key",
    "parse_shard_name",
    "parse_slots",
    "parse_used",
    "parse_values",
    "read_shard",
    "render_shard",
]

# Nothing is wrong with the file: this process, or the machine, is short of something now.
_STARVED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# What ptsup keeps beside the shards: the claims, the base they are folded into, bad shards.
RETIRED: Final = ".retired"
# Longer than any file system's clock needs to tell two changes of a directory apart.
_SETTLED_SECONDS: Final = 2.5

# Device, inode, and when entries and attributes last changed.
DirectoryMark: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Shard:
    """One `.db` file: its metrics' kind (counter, gauge, histogram, summary) and its writer.

    `mode` is the gauges' multiprocess mode (`livemax`, …), "" for the other kinds.
    """

    directory: Path
    name: str
    kind: str
    mode: str
    pid: int
    inode: int = field(default=0, compare=False)
    device: int = field(default=0, compare=False)  # of the directory it was listed in

    @property
    def path(self) -> Path:
        """Where it lies; made when it is asked for, which takes longer than all the rest."""
        return self.directory / self.name

    @property
    def live(self) -> bool:
        """Whether it ends with its process: a gauge of the living only."""
        return self.mode.startswith("live")


class Placed(NamedTuple):
    """A shard, and what holds it: None the flat directory, else a claim (0: still open)."""

    shard: Shard
    claim: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a shard directory: the shards by name, and what looks like one by name."""

    by_name: Mapping[str, Shard]
    defects: tuple[tuple[str, Defect], ...]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, in the order of their names."""
        return tuple(self.by_name.values())


NOTHING: Final = Listing({}, ())


class ShardError(Exception):
    """A shard that cannot be opened or read at all, and why."""

    def __init__(self, defect: Defect, detail: str) -> None:
        super().__init__(detail)
        self.defect = defect


# -- Listing --------------------------------------------------------------------------------------


class Stillness:
    """Tells one directory that has been left alone since it was listed, by a mark it has then.

    Two changes that are close may leave the same times; so a mark is only given out once it has
    been the same for a while, and what comes after is sure to change it.
    """

    def __init__(self) -> None:
        self._mark: DirectoryMark | None = None
        self._since = 0.0

    def find_mark(self, directory: Path) -> DirectoryMark | None:
        """Find the mark to remember with a listing that is made next; None: not to be relied on.

        Raises OSError when the directory is missing.
        """
        found = os.stat(directory)  # noqa: PTH116  half the time
        mark = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        now = time.monotonic()
        if mark != self._mark:
            self._mark, self._since = mark, now
        return mark if now - self._since > _SETTLED_SECONDS else None


def list_directory(directory: Path, former: Listing = NOTHING) -> Listing:
    """List a directory's shards by name, and what is no shard but called like one.

    Against a `former` listing of it only what is new costs anything; that listing itself is
    given back when nothing has changed. Raises OSError when the directory is missing or cannot
    be listed.
    """
    known, device = former.by_name, os.stat(directory).st_dev  # noqa: PTH116  half the time
    kept: dict[str, Shard] = {}
    fresh: dict[str, Shard] = {}
    defects = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name, inode = entry.name, entry.inode()
            shard = known.get(name)
            if shard is not None and (shard.inode, shard.device) == (inode, device):
                kept[name] = shard
            elif (parsed := parse_shard_name(name)) is None:
                if ".db" in name:
                    defects.append((name, Defect.NAME))
            elif entry.is_file(follow_symlinks=False):
                fresh[name] = Shard(directory, name, *parsed, inode, device)
            else:
                defects.append((name, Defect.IRREGULAR))
    defects.sort()
    if not fresh and len(kept) == len(known) and tuple(defects) == former.defects:
        return former
    found = kept | fresh
    return Listing({name: found[name] for name in sorted(found)}, tuple(defects))


def list_shards(directory: Path) -> tuple[Shard, ...]:
    """List the shards of a directory by name: regular files only, none when there is no directory.

    Raises OSError when the directory is there but cannot be listed.
    """
    try:
        return list_directory(directory).shards
    except (FileNotFoundError, NotADirectoryError):
        return ()


# -- Reading --------------------------------------------------------------------------------------


def open_shard(path: Path | str) -> int:
    """Open a regular file for reading, and nothing else; no FIFO can hold it up.

    Raises FileNotFoundError when it has gone, OSError when this process has no descriptor left
    for it, ShardError for any other reason.
    """
    return open_found(path)[0]


def open_found(path: Path | str) -> tuple[int, os.stat_result]:
    """Open a file as `open_shard` does, and tell which one it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_starved(error):
            raise
        raise ShardError(_name_defect(error), error.strerror or "cannot be opened") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found
    os.close(descriptor)
    raise ShardError(Defect.IRREGULAR, "not a regular file")


def is_starved(error: Exception) -> bool:
    """Whether it is this process, or the machine, that is short of something."""
    return isinstance(error, OSError) and error.errno in _STARVED


def _name_defect(error: OSError) -> Defect:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Defect.PERMISSION
    # A link (or a loop of them), a socket.
    return Defect.IRREGULAR if error.errno in {errno.ELOOP, errno.ENXIO} else Defect.IO


def read_shard(path: Path) -> tuple[list[Entry], Defect | None]:
    """Read every entry of a shard as it stands, as far as it can be read; values unjudged.

    Raises FileNotFoundError when it has gone, ShardError when it cannot be read at all.
    """
    descriptor = open_shard(path)
    try:
        data = os.pread(descriptor, 1 << 16, 0)
        used, defect = parse_used(data)
        while len(data) < used:
            more = os.pread(descriptor, used - len(data), len(data))
            if not more:
                break
            data += more
    except OSError as error:
        raise ShardError(_name_defect(error), error.strerror or "cannot be read") from error
    finally:
        os.close(descriptor)
    if defect is not None or not used:
        return [], defect
    slots, _, defect = parse_slots(data, HEADER_BYTES, used)
    return parse_values(data, slots), defect
