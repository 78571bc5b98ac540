"""What stands in for readings and sums while there is no shard and no base to be read.

They take longer to import than a page without them takes to come: numpy is theirs. Where it
cannot be imported, this goes on standing in for them, and nothing may be folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from telemetry.plan import Plan, Totals
from telemetry.shards import Defect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from telemetry.base import Base
    from telemetry.groups import Source
    from telemetry.shards import Entry, Placed, Shard

# Slot 0 is nobody's.
_NO_TOTALS: Final = Totals(Plan((), 1, (), (), {}, {}), [0.0], [False])


class NoReadings:
    """The readings of no shard."""

    def __init__(self) -> None:
        self.starved = False  # what there is could not be read
        self.sources: Mapping[int, Source] = {}
        self.refused: Mapping[int, tuple[Shard, Defect]] = {}

    def begin(self) -> None:
        """Begin nothing."""

    def sync(self, listed: Sequence[Placed]) -> None:
        """Take in nothing; what there is after all is refused."""
        self.refused = {shard.inode: (shard, Defect.IO) for shard, _ in listed}

    def refresh(self) -> None:
        """Read nothing."""

    def drop(self, sources: Iterable[Source]) -> None:
        """Forget nothing."""

    def find_missing(self, listed: Iterable[Placed]) -> bool:  # noqa: ARG002  the readings'
        """Miss nothing."""
        return False

    def list_defects(self) -> Iterator[tuple[Shard, set[Defect]]]:
        """Name what was refused."""
        for shard, defect in self.refused.values():
            yield shard, {defect}

    def find_defects(self, source: Source) -> set[Defect]:  # noqa: ARG002  the readings'
        """Nothing is wrong."""
        return set()

    def entries(self, source: Source) -> list[Entry]:  # noqa: ARG002  the readings'
        """Nothing was read."""
        return []

    def find_unlinked_dead(self) -> list[Source]:
        """Nobody left a shard."""
        return []

    def find_dead_gauges(self) -> list[Source]:
        """Nobody left a gauge."""
        return []


class NoSums:
    """What no shard and no base add up to."""

    def __init__(self) -> None:
        self.readings = NoReadings()

    def use(self, base: Base) -> None:
        """Add up without this base."""

    def add_up(self) -> Totals:
        """Add up nothing."""
        return _NO_TOTALS
