"""The base: what the dead have counted, as one value that claims are absorbed into.

Pure. Whatever is absorbed in whatever grouping, the base says what prometheus_client's
MultiProcessCollector would say of the same shards in the same order; it is read back whole and
right, or not at all.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from telemetry.shard_format import (
    HEADER_BYTES,
    parse_slots,
    parse_used,
    parse_values,
    render_shard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from telemetry.shard_format import Entry

SCHEMA: Final = "ptsup.base/1"
# So many pids keep the `all` gauges they left; stock would keep them all, for ever.
ALL_PIDS_KEPT: Final = 128
# Far more than anybody has counted; a larger file is garbage, and is not read into memory.
BASE_LIMIT_BYTES: Final = 1 << 28

# The kind of the metrics, the gauges' mode ("" for other kinds), and the pid of the gauges that
# keep theirs (mode "all"), otherwise 0.
Section: TypeAlias = tuple[str, str, int]
# A value and its timestamp.
Pair: TypeAlias = tuple[float, float]
# Raw keys, as the shards have them: those that differ in help or order of labels stay apart.
Series: TypeAlias = "Mapping[bytes, Pair]"
# A shard's kind, mode, pid and entries.
ShardEntries: TypeAlias = "tuple[str, str, int, Iterable[Entry]]"

# The checksum covers every byte behind it, the first line's own included.
_PREFIX: Final = re.compile(rb'\{"schema": "ptsup\.base/1", "crc32": "([0-9a-f]{8})", ')


@dataclass(frozen=True, slots=True)
class Base:
    """The folded totals of the dead.

    `claim` is the number of the newest claim it holds, 0 for none; `dropped` counts the pids
    whose `all` gauges had to go. Sections of `all` gauges stand in order, the newest pid last.
    """

    claim: int = 0
    sections: Mapping[Section, Series] = field(default_factory=dict)
    dropped: int = 0


class BaseError(ValueError):
    """Bytes that are no base, or no longer the one that was written."""


# -- Absorbing -----------------------------------------------------------------------------------


def absorb(base: Base, claim: int, shards: Iterable[ShardEntries]) -> Base:
    """Add one claim's shards to a base; live gauges ended with their process and are left out.

    Raises ValueError when the claim is not newer than the base: it would count twice.
    """
    return absorb_all(base, [(claim, shards)])


def absorb_all(base: Base, claims: Iterable[tuple[int, Iterable[ShardEntries]]]) -> Base:
    """Add claims in the order of their numbers; the sections that change are copied once.

    Raises ValueError when a claim is not newer than the one before it or the base.
    """
    draft = _Draft(base)
    newest = base.claim
    for claim, shards in claims:
        if claim <= newest:
            raise ValueError(f"claim {claim} is not newer than {newest}: it would count twice")
        newest = claim
        for kind, mode, pid, entries in shards:
            draft.add(kind, mode, pid, entries)
    return Base(newest, draft.sections, draft.dropped)


def absorb_removed(base: Base, shards: Iterable[ShardEntries]) -> Base:
    """Add shards that lie in no claim, because somebody removed them; nobody can add them again."""
    draft = _Draft(base)
    for kind, mode, pid, entries in shards:
        draft.add(kind, mode, pid, entries)
    return Base(base.claim, draft.sections, draft.dropped)


class _Draft:
    """A base being made: its own are the sections it has written to, the others still the old's."""

    def __init__(self, base: Base) -> None:
        self.dropped = base.dropped
        self._merged = {key: held for key, held in base.sections.items() if not _keeps_pid(key)}
        # Oldest first.
        self._kept = {key: held for key, held in base.sections.items() if _keeps_pid(key)}
        self._own: dict[Section, dict[bytes, Pair]] = {}

    @property
    def sections(self) -> Mapping[Section, Series]:
        return {**self._merged, **self._kept}

    def add(self, kind: str, mode: str, pid: int, entries: Iterable[Entry]) -> None:
        entries = tuple(entries)
        if mode.startswith("live") or not entries:
            return
        choose = _OPERATORS[kind, mode]
        section = (kind, mode, pid if mode == "all" else 0)
        series = self._open(section)
        for raw, value, timestamp in entries:
            held = series.get(raw)
            new = (value, timestamp)
            series[raw] = new if held is None else choose(held, new)

    def _open(self, section: Section) -> dict[bytes, Pair]:
        """Give a section to write to; an `all` section becomes the newest of them."""
        group = self._kept if _keeps_pid(section) else self._merged
        series = self._own.get(section)
        if series is None:
            series = self._own[section] = dict(group.get(section, {}))
        if group is self._kept:
            group.pop(section, None)
        group[section] = series
        while len(self._kept) > ALL_PIDS_KEPT:
            self._drop(next(iter(self._kept)))
        return series

    def _drop(self, section: Section) -> None:
        del self._kept[section]
        self._own.pop(section, None)
        self.dropped += 1


def _keeps_pid(section: Section) -> bool:
    return section[1] == "all"


# The comparisons are those of prometheus_client, the way round they stand there: NaN wins none.


def _add(held: Pair, new: Pair) -> Pair:
    return held[0] + new[0], max(held[1], new[1])


def _choose_min(held: Pair, new: Pair) -> Pair:
    return new if new[0] < held[0] else held


def _choose_max(held: Pair, new: Pair) -> Pair:
    return new if new[0] > held[0] else held


def _choose_recent(held: Pair, new: Pair) -> Pair:
    # Stock begins at 0 and shows nothing that is not later. Such an entry is held for its family's
    # sake, and anything with a time takes its place.
    time = held[1] if held[1] > 0 else 0.0
    return new if time < new[1] else held


def _choose_new(held: Pair, new: Pair) -> Pair:  # noqa: ARG001  an operator like the others
    return new


_OPERATORS: Final[Mapping[tuple[str, str], Callable[[Pair, Pair], Pair]]] = {
    ("counter", ""): _add,
    ("histogram", ""): _add,
    ("summary", ""): _add,
    ("gauge", "sum"): _add,
    ("gauge", "min"): _choose_min,
    ("gauge", "max"): _choose_max,
    ("gauge", "mostrecent"): _choose_recent,
    # A pid that comes again opens its old shard and goes on in it: what it set anew counts.
    ("gauge", "all"): _choose_new,
}


# -- Bytes ---------------------------------------------------------------------------------------


def render_base(base: Base) -> bytes:
    """Render a base as a line of JSON, then an image in the format of a shard for each section.

    Raises BaseError when it is larger than `parse_base` would take.
    """
    images = [
        render_shard((raw, value, timestamp) for raw, (value, timestamp) in series.items())
        for series in base.sections.values()
    ]
    rows = [
        {"kind": kind, "mode": mode, "pid": pid, "length": len(image)}
        for (kind, mode, pid), image in zip(base.sections, images, strict=True)
    ]
    header = json.dumps({"claim": base.claim, "dropped": base.dropped, "sections": rows})
    rest = b"".join((header[1:].encode(), b"\n", *images))
    prefix = f'{{"schema": "{SCHEMA}", "crc32": "{zlib.crc32(rest):08x}", '.encode()
    if len(prefix) + len(rest) > BASE_LIMIT_BYTES:
        raise BaseError(f"larger than {BASE_LIMIT_BYTES} bytes")
    return prefix + rest


def parse_base(data: bytes) -> Base:
    """Read a base back. Raises BaseError on anything that is not whole and right."""
    prefix = _PREFIX.match(data)
    if prefix is None:
        raise BaseError(f"not a {SCHEMA}")
    if len(data) > BASE_LIMIT_BYTES:
        raise BaseError(f"larger than {BASE_LIMIT_BYTES} bytes")
    view = memoryview(data)
    if zlib.crc32(view[prefix.end() :]) != int(prefix[1], 16):
        raise BaseError("damaged or cut short: its checksum differs")
    position = data.find(b"\n") + 1
    claim, dropped, rows = _parse_header(data[:position])
    if position + sum(length for _, length in rows) != len(data):
        raise BaseError("its sections are not as long as it says")
    sections: dict[Section, Series] = {}
    for section, length in rows:
        sections[section] = _parse_series(view[position : position + length])
        position += length
    if len(sections) != len(rows):
        raise BaseError("it has a section twice")
    return Base(claim, sections, dropped)


def _parse_header(line: bytes) -> tuple[int, int, list[tuple[Section, int]]]:
    """Read claim, dropped, and each section with its length."""
    try:
        document: Any = json.loads(line)
        numbers = [document["claim"], document["dropped"]]
        rows = [
            ((row["kind"], row["mode"], row["pid"]), row["length"]) for row in document["sections"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BaseError("its first line cannot be read") from error
    if not all(_is_number(number) for number in (*numbers, *(length for _, length in rows))):
        raise BaseError("a number in its first line cannot be")
    if not all(_is_section(*section) for section, _ in rows):
        raise BaseError("it has a section that cannot be")
    return numbers[0], numbers[1], rows


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0  # True would pass for an int


def _is_section(kind: object, mode: object, pid: object) -> bool:
    known = isinstance(kind, str) and isinstance(mode, str) and (kind, mode) in _OPERATORS
    return known and _is_number(pid) and bool(pid) == (mode == "all")


def _parse_series(image: memoryview) -> Series:
    used, defect = parse_used(image)
    if not used or used != len(image):
        raise BaseError(f"a section is not as long as it says ({defect or 'empty'})")
    slots, _, defect = parse_slots(image, HEADER_BYTES, used)
    if defect is not None:
        raise BaseError(f"a section cannot be read ({defect})")
    series = {raw: (value, time) for raw, value, time in parse_values(image, slots)}
    if len(series) != len(slots):
        raise BaseError("a section has a key twice")
    return series
