"""The `.db` format of prometheus_client: names, keys and entries, from bytes and back to bytes.

Pure. Whatever bytes it is given, reading them ends in entries and named defects, never in an
exception.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

# A pid is a signed 32-bit number that begins at 1; anything longer names no process.
_PID_MAX: Final = 2**31 - 1
_PID_DIGITS: Final = 10
GAUGE_MODES: Final = (
    *("all", "liveall", "min", "livemin", "max", "livemax"),
    *("sum", "livesum", "mostrecent", "livemostrecent"),
)
# What a shard's name begins with, for each kind and gauge mode there is.
SHARD_PREFIXES: Final = (
    *("counter", "histogram", "summary"),
    *(f"gauge_{mode}" for mode in GAUGE_MODES),
)
_KINDS: Final = {
    prefix: (prefix.partition("_")[0], prefix.partition("_")[2]) for prefix in SHARD_PREFIXES
}

# The format (prometheus_client.mmap_dict): an int32 `used`, 4 bytes of padding, then entries:
# an int32 key length, the key, blanks up to an 8-byte boundary, a value and a timestamp.
HEADER_BYTES: Final = 8
WORD: Final = 8
_INT: Final = struct.Struct("=i")
_PAIR: Final = struct.Struct("=dd")
# Some 40,000 series of a hundred bytes and their help: more than a page can bear of one process.
SHARD_LIMIT_BYTES: Final = 8 << 20
# Far more than anybody writes; what claims to be larger is garbage.
_USED_MAX: Final = 1 << 28


class Defect(StrEnum):
    """Why a shard, or a part of it, cannot be used."""

    NAME = "name"  # called almost like a shard
    IRREGULAR = "irregular"  # a directory, link, FIFO or socket of a shard's name
    PERMISSION = "permission"
    IO = "io"  # the system cannot read it
    EMPTY = "empty"  # its process died before it wrote anything
    HEADER = "header"  # its `used` cannot be
    SIZE = "size"  # it uses more than a shard may
    TRUNCATED = "truncated"  # it ends inside an entry
    LENGTH = "length"  # a key length that cannot be
    KEY = "key"  # a key that names no series
    VALUE = "value"  # NaN or negative where only counting is done
    FELL = "fell"  # a counter below its own last value


# What a sample's name adds to its family's.
_SUFFIXES: Final = frozenset({"", "_total", "_created", "_bucket", "_sum", "_count"})


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


# -- Names ----------------------------------------------------------------------------------------


def parse_shard_name(name: str) -> tuple[str, str, int] | None:
    """Read (kind, mode, pid) from a file name, None when prometheus_client never writes it."""
    prefix, _, rest = name.rpartition("_")
    kind, digits = _KINDS.get(prefix), rest[:-3]
    if kind is None or rest[-3:] != ".db" or not (digits.isascii() and digits.isdigit()):
        return None
    pid = int(digits) if len(digits) <= _PID_DIGITS and digits[0] != "0" else 0
    return (*kind, pid) if 0 < pid <= _PID_MAX else None


# -- Reading --------------------------------------------------------------------------------------


def parse_used(data: bytes | bytearray | memoryview) -> tuple[int, Defect | None]:
    """Read how many bytes a shard says are used; 0 when it has not been written yet."""
    if not any(data[:HEADER_BYTES]):
        # Created, and its process has not come to write its header: 0 bytes long, or zeros.
        return (0, Defect.HEADER) if any(data) else (0, None)
    if len(data) < HEADER_BYTES:
        return 0, Defect.TRUNCATED
    used: int = _INT.unpack_from(data)[0]
    if not HEADER_BYTES <= used <= _USED_MAX:
        return 0, Defect.HEADER
    if used > SHARD_LIMIT_BYTES:
        return 0, Defect.SIZE
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


def parse_values(data: bytes | bytearray | memoryview, slots: Iterable[Slot]) -> list[Entry]:
    """Read the values and timestamps of slots that `parse_slots` found in the same data."""
    return [(key, *_PAIR.unpack_from(data, position)) for key, position in slots]


def parse_key(raw: bytes, kind: str) -> Key | None:
    """Read a key as prometheus_client writes it, None when it names no series of that kind."""
    try:
        document: Any = json.loads(raw.decode())
        family, name, labels, help_text = document
        names, texts = [family, name, *labels], [help_text, *labels.values()]
        # Half of a surrogate pair cannot be put on the page.
        "".join(names + texts).encode()
        bound = float(labels["le"]) if kind == "histogram" and "le" in labels else 0.0
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    # The library takes a name that ends in a newline for a good one, and writes it as it is.
    if not all(names) or "\n" in "".join(names) or math.isnan(bound):
        return None
    if not name.startswith(family) or name[len(family) :] not in _SUFFIXES:
        return None
    return Key(family, name, tuple(sorted(labels.items())), help_text)


def is_count(kind: str, key: Key) -> bool:
    """Whether a series only ever counts up: a counter, a bucket, a number of observations."""
    match kind:
        case "counter":
            return True
        case "histogram":
            return key.name.endswith("_count") or any(name == "le" for name, _ in key.labels)
        case "summary":
            return key.name.endswith("_count")
        case _:
            return False


# -- Writing --------------------------------------------------------------------------------------


def render_shard(entries: Iterable[Entry]) -> bytes:
    """Render entries in the format of a shard, without the room to grow."""
    parts = [b""]
    for key, value, timestamp in entries:
        padding = b" " * (8 - (len(key) + 4) % 8)
        parts += (_INT.pack(len(key)), key, padding, _PAIR.pack(value, timestamp))
    parts[0] = _INT.pack(HEADER_BYTES + sum(map(len, parts))) + bytes(4)
    return b"".join(parts)
