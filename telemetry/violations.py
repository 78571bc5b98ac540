"""Series that are left off the page for a label: named once in the log, each counted once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from telemetry.plan import Violation

# So much is told of a name, however long it is.
_TOLD_CHARACTERS: Final = 200

_logger = logging.getLogger(__name__)


class Violations:
    """Who violates the policy now, and how many series ever did."""

    def __init__(self) -> None:
        self.total = 0
        self._series: dict[Violation, int] = {}

    def __bool__(self) -> bool:
        return bool(self._series)

    def note(self, found: Mapping[Violation, int]) -> None:
        """Take what is left off now, by who wrote it; add to the total what is new of it."""
        for violation, series in found.items():
            self.total += max(0, series - self._count_noted(violation, found))
            if violation not in self._series:
                _logger.warning(
                    "left off the page: %s of pid %d has the label %r",
                    ascii(violation.family),
                    violation.pid,
                    violation.label,
                )
        self._series = dict(found)

    def _count_noted(self, violation: Violation, found: Mapping[Violation, int]) -> int:
        """Count the series of a violation that are counted already, by whoever wrote them."""
        noted = self._series.get(violation, 0)
        if violation.pid:
            return noted
        # What a pid left to the base was counted when it was that pid's.
        return noted + sum(
            series
            for former, series in self._series.items()
            if former[:2] == violation[:2] and former not in found
        )

    def tell(self) -> Iterator[dict[str, Any]]:
        """Tell of the series left off the page; first of those whose writers may still live."""
        for found in sorted(self._series, key=lambda found: not found.pid):
            yield {
                "metric": found.family[:_TOLD_CHARACTERS],
                "label": found.label[:_TOLD_CHARACTERS],
                "pid": found.pid,
                "shard": found.shard,
                "series": self._series[found],
            }
