"""Shards for the fuzz: real ones, and what damage makes of them. The same seed, the same shards."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Final

from telemetry.shards import HEADER_BYTES, parse_slots, parse_used, render_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

_INT: Final = struct.Struct("=i")
_DOUBLE: Final = struct.Struct("=d")
_CORPUS_LIMIT: Final = 512
_OUTCOMES: Final = 1 << 16
_SHARD_LIMIT_BYTES: Final = 1 << 11

LENGTHS: Final = (
    *(-(2**31), -8, -4, -3, -1, 0, 1, 3, 4, 5, 7, 8, 9, 12, 16, 20, 24, 100),
    *(4096, 65535, 65536, 2**24, 2**28, 2**28 + 8, 2**31 - 1),
)
VALUES: Final = (
    *(0.0, -0.0, 1.0, -1.0, 0.1, 5e-324, 1e308, -1e308, 2.0**53),
    *(float("inf"), float("-inf"), float("nan")),
)
_FRAGMENTS: Final = (
    *(b"[", b"]", b"{", b"}", b'"', b"\\", b",", b":", b"\0", b"\n", b" ", b"\xff", b"\xc3"),
    *(
        b"null",
        b"true",
        b"1e999",
        b"-1",
        b"NaN",
        b"[[",
        b"{}",
        b'""',
        b"\\n",
        b"\\ud800",
        b"\\u0000",
    ),
    *(b'"le": "abc"', b'"le": "nan"', b'"": "x"', b'"pid": "1"', b'"reason": 1', b"9" * 5000),
)
_DOCUMENTS: Final[tuple[object, ...]] = (
    *(None, True, 1, 1.5, "text", "four", [], {}, [1], {"a": 1, "b": 2, "c": 3, "d": 4}),
    *(["f", "f", {}], ["f", "f", {}, "h", 1], [1, "f", {}, "h"], ["f", 1, {}, "h"]),
    *(["f", "f", [], "h"], ["f", "f", "x", "h"], ["f", "f", None, "h"], ["f", "f", {}, 1]),
    *(["f", "f", {"reason": 1}, "h"], ["f", "f", {"reason": None}, "h"], ["", "f", {}, "h"]),
    *(["f", "", {}, "h"], ["f", "f", {"": "x"}, "h"], ["f\n", "f\n", {}, "h"]),
    *(["f g", "f-g", {"reason": "\r\n\0\x85\u2028"}, "a\nb\\"], ["f", "f", {"le": "abc"}, "h"]),
    *(["f", "f_bucket", {"le": "nan"}, "h"], ["f", "f", {"le": "1_0"}, "h"]),
    *(["f", "f", {"reason": "\ud800"}, "h"], ["f", "f", {"reason": "\U0001f40d"}, "h" * 3000]),
)


def build_key(family: str, name: str, labels: dict[str, str], help_text: str = "Help.") -> bytes:
    """Build a key as prometheus_client writes it."""
    return json.dumps([family, name, labels, help_text], sort_keys=True).encode()


def build_seeds() -> list[bytes]:
    """Build what sound processes write: counters, gauges, histograms and summaries."""
    reasons = ("runtime:halt", 'ünï \\ "quoted"\n', "", "x" * 200)
    counters = [
        (build_key("fz_jobs", "fz_jobs_total", {"reason": reason}), float(number), 0.0)
        for number, reason in enumerate(reasons)
    ]
    gauges = [
        (build_key("fz_depth", "fz_depth", {"ccy": ccy}, "Tiefe \\ \n €"), -2.5, 1.7e9)
        for ccy in ("EUR", "USD")
    ]
    histogram = [
        (build_key("fz_wait", "fz_wait_sum", {}), 7.25, 0.0),
        *(
            (build_key("fz_wait", "fz_wait_bucket", {"le": bound}), 3.0, 0.0)
            for bound in ("0.5", "1.0", "+Inf")
        ),
    ]
    summary = [
        (build_key("fz_cost", f"fz_cost_{part}", {"check": "a"}), 4.0, 0.0)
        for part in ("count", "sum")
    ]
    shards = [
        render_shard(entries)
        for entries in (counters, gauges, histogram, summary, [*counters, *histogram], [])
    ]
    return [*shards, *(shard + bytes(256) for shard in shards), bytes(64)]


class Corpus:
    """Damages shards at random, and damages further what turned out in a way not seen before."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._seeds = build_seeds()
        self._shards = list(self._seeds)
        self._seen = bytearray(_OUTCOMES)
        self._damages: tuple[Callable[[bytearray], None], ...] = (
            *(self._flip_bits, self._set_bytes, self._set_length, self._set_length),
            *(self._set_used, self._set_value, self._set_value, self._put_fragment),
            *(
                self._put_document,
                self._splice,
                self._cut,
                self._insert,
                self._truncate,
                self._extend,
            ),
        )

    def mutants(self, count: int) -> Iterator[bytes]:
        """Give so many damaged shards; one in fifty is random bytes, one in two hundred sound."""
        for number in range(count):
            if number % 50 == 0:
                yield self._random.randbytes(
                    self._random.choice((0, 1, 3, 4, 6, 7, 8, 9, 100, 999))
                )
                continue
            shard = bytearray(self._random.choice(self._random.choice((self._seeds, self._shards))))
            if number % 200 != 1:
                for _ in range(self._random.choice((1, 1, 1, 2, 3, 5))):
                    self._random.choice(self._damages)(shard)
            yield bytes(shard[:_SHARD_LIMIT_BYTES])

    def note(self, shard: bytes, outcome: object) -> None:
        """Keep a mutant whose outcome is new, to go on from there."""
        mark = zlib.crc32(repr(outcome).encode()) % _OUTCOMES
        if self._seen[mark]:
            return
        self._seen[mark] = 1
        if len(self._shards) < _CORPUS_LIMIT:
            self._shards.append(shard)
        else:
            self._shards[self._random.randrange(len(self._seeds), _CORPUS_LIMIT)] = shard

    @property
    def outcomes(self) -> int:
        """How many different outcomes there were."""
        return sum(self._seen)

    def _place(self, shard: bytearray) -> int:
        return self._random.randrange(len(shard) + 1)

    def _slot(self, shard: bytearray) -> tuple[int, int] | None:
        """Find an entry: where it begins, and where its value lies."""
        used, _ = parse_used(shard)
        slots, _, _ = parse_slots(shard, HEADER_BYTES, used)
        if not slots:
            return None
        number = self._random.randrange(len(slots))
        return (slots[number - 1][1] + 16 if number else HEADER_BYTES), slots[number][1]

    def _flip_bits(self, shard: bytearray) -> None:
        for _ in range(self._random.randint(1, 8)):
            if shard:
                shard[self._random.randrange(len(shard))] ^= 1 << self._random.randrange(8)

    def _set_bytes(self, shard: bytearray) -> None:
        start = self._place(shard)
        size = min(self._random.choice((1, 4, 8, 32)), len(shard) - start)
        shard[start : start + size] = bytes([self._random.choice((0, 32, 34, 127, 255))]) * size

    def _set_length(self, shard: bytearray) -> None:
        slot = self._slot(shard)
        if slot is not None:
            length = self._random.choice(LENGTHS)
            if self._random.random() < 0.5:
                length = _INT.unpack_from(shard, slot[0])[0] + self._random.randint(-9, 9)
            _INT.pack_into(shard, slot[0], length)

    def _set_used(self, shard: bytearray) -> None:
        used = self._random.choice((*LENGTHS, len(shard) - 4, len(shard), len(shard) + 4))
        if self._random.random() < 0.5:
            used = parse_used(shard)[0] + self._random.randint(-33, 33)
        shard[:4] = _INT.pack(used)

    def _set_value(self, shard: bytearray) -> None:
        slot = self._slot(shard)
        if slot is not None:
            _DOUBLE.pack_into(
                shard, slot[1] + self._random.choice((0, 0, 8)), self._random.choice(VALUES)
            )

    def _put_fragment(self, shard: bytearray) -> None:
        slot = self._slot(shard)
        if slot is not None:
            fragment = self._random.choice(_FRAGMENTS)
            start = self._random.randrange(slot[0] + 4, slot[1])
            size = min(len(fragment), slot[1] - start)
            shard[start : start + size] = fragment[:size]

    def _put_document(self, shard: bytearray) -> None:
        key = json.dumps(self._random.choice(_DOCUMENTS)).encode()
        entry = render_shard([(key, self._random.choice(VALUES), 0.0)])[HEADER_BYTES:]
        used, defect = parse_used(shard)
        if defect is None and used <= len(shard):
            shard[used : used + len(entry)] = entry
            shard[:4] = _INT.pack(max(used, HEADER_BYTES) + len(entry))

    def _splice(self, shard: bytearray) -> None:
        other = self._random.choice(self._shards)
        start = self._random.randrange(len(other) + 1)
        piece = other[start : start + self._random.randint(1, 128)]
        place = self._place(shard)
        shard[place : place + len(piece)] = piece

    def _cut(self, shard: bytearray) -> None:
        place = self._place(shard)
        del shard[place : place + self._random.choice((1, 4, 8, 24, 64))]

    def _insert(self, shard: bytearray) -> None:
        place = self._place(shard)
        shard[place:place] = self._random.randbytes(self._random.choice((1, 4, 8, 24)))

    def _truncate(self, shard: bytearray) -> None:
        del shard[self._place(shard) :]

    def _extend(self, shard: bytearray) -> None:
        shard += self._random.randbytes(self._random.choice((1, 8, 64, 300)))
