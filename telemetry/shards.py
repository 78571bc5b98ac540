"""The shard directory and the `.db` format: names, listing, bounds-checked reading.

Standard library only. It reads and changes nothing; whatever bytes a file holds, reading it
ends in entries and named defects, never in an exception, and never through a mapping, which a
truncation would turn into SIGBUS.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What ptsup keeps beside the shards: the claims, the base they are folded into, bad shards.
RETIRED: Final = ".retired"

# A pid is a signed 32-bit number that begins at 1; anything longer names no process.
_PID_MAX: Final = 2**31 - 1
GAUGE_MODES: Final = (
    *("all", "liveall", "min", "livemin", "max", "livemax"),
    *("sum", "livesum", "mostrecent", "livemostrecent"),
)
# What a shard's name begins with, for each kind and gauge mode there is.
SHARD_PREFIXES: Final = (
    *("counter", "histogram", "summary"),
    *(f"gauge_{mode}" for mode in GAUGE_MODES),
)
_SHARD_NAME: Final = re.compile(
    rf"(?:(counter|histogram|summary)|gauge_({'|'.join(GAUGE_MODES)}))_([1-9][0-9]{{0,9}})\.db"
)

# The format (prometheus_client.mmap_dict): an int32 `used`, 4 bytes of padding, then entries:
# an int32 key length, the key, blanks up to an 8-byte boundary, a value and a timestamp.
HEADER_BYTES: Final = 8
_INT: Final = struct.Struct("=i")
_PAIR: Final = struct.Struct("=dd")
# Far more than anybody writes; what claims to be larger is garbage.
_SHARD_LIMIT_BYTES: Final = 1 << 28


class Defect(StrEnum):
    """Why a shard, or a part of it, cannot be used."""

    NAME = "name"  # called almost like a shard
    IRREGULAR = "irregular"  # a directory, link, FIFO or socket of a shard's name
    PERMISSION = "permission"
    IO = "io"  # the system cannot read it
    EMPTY = "empty"  # its process died before it wrote anything
    HEADER = "header"  # its `used` cannot be
    TRUNCATED = "truncated"  # it ends inside an entry
    LENGTH = "length"  # a key length that cannot be
    KEY = "key"  # a key that names no series
    VALUE = "value"  # NaN or negative where only counting is done
    FELL = "fell"  # a counter below its own last value


@dataclass(frozen=True, slots=True)
class Shard:
    """One `.db` file: its metrics' kind (counter, gauge, histogram, summary) and its writer.

    `mode` is the gauges' multiprocess mode (`livemax`, …), "" for the other kinds.
    """

    path: Path
    kind: str
    mode: str
    pid: int
    inode: int = field(default=0, compare=False)

    @property
    def live(self) -> bool:
        """Whether it ends with its process: a gauge of the living only."""
        return self.mode.startswith("live")


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a shard directory: the shards by name, and what looks like one by name."""

    shards: tuple[Shard, ...]
    defects: tuple[tuple[str, Defect], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """What a key says: the family, its help, the sample's name and its sorted labels."""

    family: str
    name: str
    labels: tuple[tuple[str, str], ...]
    help: str


# A raw key and the offset of its value, in bytes; the timestamp follows 8 bytes later.
Slot: TypeAlias = tuple[bytes, int]
# A raw key, its value and its timestamp.
Entry: TypeAlias = tuple[bytes, float, float]


class ShardError(Exception):
    """A shard that cannot be opened or read at all, and why."""

    def __init__(self, defect: Defect, detail: str) -> None:
        super().__init__(detail)
        self.defect = defect


# -- Names ----------------------------------------------------------------------------------------


def parse_shard_name(name: str) -> tuple[str, str, int] | None:
    """Read (kind, mode, pid) from a file name, None when prometheus_client never writes it."""
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        return None
    kind, mode, digits = match.groups()
    pid = int(digits)
    return (kind or "gauge", mode or "", pid) if pid <= _PID_MAX else None


def list_directory(directory: Path) -> Listing:
    """List a directory's shards by name, and what is no shard but called like one.

    Raises OSError when it is missing or cannot be listed.
    """
    found: dict[str, tuple[str, str, int, int]] = {}
    defects = []
    with os.scandir(directory) as entries:
        for entry in entries:
            parsed = parse_shard_name(entry.name)
            if parsed is None:
                if ".db" in entry.name:
                    defects.append((entry.name, Defect.NAME))
            elif entry.is_file(follow_symlinks=False):
                found[entry.name] = (*parsed, entry.inode())
            else:
                defects.append((entry.name, Defect.IRREGULAR))
    shards = tuple(Shard(directory / name, *found[name]) for name in sorted(found))
    return Listing(shards, tuple(sorted(defects)))


def list_shards(directory: Path) -> tuple[Shard, ...]:
    """List the shards of a directory by name: regular files only, none when there is no directory.

    Raises OSError when the directory is there but cannot be listed.
    """
    try:
        return list_directory(directory).shards
    except (FileNotFoundError, NotADirectoryError):
        return ()


# -- Reading --------------------------------------------------------------------------------------


def open_shard(path: Path) -> int:
    """Open a regular file for reading, and nothing else; no FIFO can hold it up.

    Raises FileNotFoundError when it has gone, ShardError for any other reason.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ShardError(_name_defect(error), error.strerror or "cannot be opened") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ShardError(Defect.IRREGULAR, "not a regular file")


def _name_defect(error: OSError) -> Defect:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Defect.PERMISSION
    # A link (or a loop of them), a socket.
    return Defect.IRREGULAR if error.errno in {errno.ELOOP, errno.ENXIO} else Defect.IO


def parse_used(data: bytes | bytearray | memoryview) -> tuple[int, Defect | None]:
    """Read how many bytes a shard says are used; 0 when it has not been written yet."""
    if not any(data[:HEADER_BYTES]):
        # Created, and its process has not come to write its header: 0 bytes long, or zeros.
        return (0, Defect.HEADER) if any(data) else (0, None)
    if len(data) < HEADER_BYTES:
        return 0, Defect.TRUNCATED
    used: int = _INT.unpack_from(data)[0]
    if not HEADER_BYTES <= used <= _SHARD_LIMIT_BYTES:
        return 0, Defect.HEADER
    return used, None


def parse_slots(
    data: bytes | bytearray | memoryview, start: int, used: int
) -> tuple[list[Slot], int, Defect | None]:
    """Find the entries between `start` and `used`; return them, where they end, and what is wrong.

    What can be read before a defect is returned with it.
    """
    slots: list[Slot] = []
    position, limit = start, min(used, len(data))
    while position < used:
        if position + 4 > limit:
            return slots, position, Defect.TRUNCATED
        length: int = _INT.unpack_from(data, position)[0]
        if length <= 0 or length > used - position:
            return slots, position, Defect.LENGTH
        value = position + 4 + length + 8 - (length + 4) % 8
        if value + _PAIR.size > limit:
            return slots, position, Defect.TRUNCATED
        slots.append((bytes(data[position + 4 : position + 4 + length]), value))
        position = value + _PAIR.size
    return slots, position, None


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
    return [(key, *_PAIR.unpack_from(data, position)) for key, position in slots], defect


def parse_key(raw: bytes, kind: str) -> Key | None:
    """Read a key as prometheus_client writes it, None when it names no series of that kind."""
    try:
        document: Any = json.loads(raw.decode())
        family, name, labels, help_text = document
        pairs = tuple(sorted(labels.items()))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = [family, name, help_text, *(text for pair in pairs for text in pair)]
    if not (family and name and all(isinstance(text, str) for text in texts)):
        return None
    try:
        "".join(texts).encode()  # half of a surrogate pair cannot be put on the page
        bound = float(labels.get("le", 0)) if kind == "histogram" else 0.0
    except ValueError:
        return None
    return None if math.isnan(bound) else Key(family, name, pairs, help_text)


def is_count(kind: str, key: Key) -> bool:
    """Whether a series only ever counts up: a counter, a bucket, a number of observations."""
    return kind == "counter" or (
        kind in {"histogram", "summary"} and key.name.endswith(("_bucket", "_count"))
    )


# -- Writing --------------------------------------------------------------------------------------


def render_shard(entries: Iterable[Entry]) -> bytes:
    """Render entries in the format of a shard, without the room to grow."""
    parts = [b""]
    for key, value, timestamp in entries:
        padding = b" " * (8 - (len(key) + 4) % 8)
        parts += (_INT.pack(len(key)), key, padding, _PAIR.pack(value, timestamp))
    parts[0] = _INT.pack(HEADER_BYTES + sum(map(len, parts))) + bytes(4)
    return b"".join(parts)
