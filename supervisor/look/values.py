"""Looks whether the values in the sessions' shards move, which no file event tells.

By a checksum of what is used of each shard; what the values are is metricsd's affair.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from telemetry.shards import ShardError, open_shard, parse_used

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.look.processes import Crew, Key
    from telemetry.shards import Shard

_FIRST_READ_BYTES: Final = 1 << 14


@dataclass(slots=True)
class ValueLooker:
    """Looks again and again, at most as often as it is told."""

    _looked_at: float | None = None
    # By session and incarnation: the checksum, and since when it is that.
    _known: dict[Key, tuple[int, float]] = field(default_factory=dict)

    def look(
        self,
        shards: Mapping[str, tuple[Shard, ...]],
        crew: Crew,
        now: float,
        every_seconds: float,
    ) -> dict[str, float]:
        """Find for how long no value of a session has moved, by name; one without shards not."""
        due = self._looked_at is None or now - self._looked_at >= every_seconds
        if due:
            self._looked_at = now
        known = {}
        for member in crew.members:
            key = member.key
            written = shards.get(member.name)
            if not written:
                continue
            former = self._known.get(key)
            if due or former is None:
                mark = read_mark(written)
                former = former if former is not None and former[0] == mark else (mark, now)
            known[key] = former
        self._known = known
        return {name: now - since for (name, _), (_, since) in known.items()}


def read_mark(shards: Iterable[Shard]) -> int:
    """Read a number that changes whenever a value in these shards does."""
    mark = 0
    for shard in shards:
        try:
            descriptor = open_shard(shard.path)
        except (OSError, ShardError):
            continue
        try:
            data = os.pread(descriptor, _FIRST_READ_BYTES, 0)
            used, _ = parse_used(data)
            if used > len(data):
                data += os.pread(descriptor, used - len(data), len(data))
        except OSError:
            continue
        finally:
            os.close(descriptor)
        mark = zlib.crc32(data[:used], mark)
    return mark
