"""Label governance for the page: which labels a series may carry, whoever wrote it.

Pure. It judges names, never values; what it objects to stays in the shards and the base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from telemetry.shard_format import Key

# The labels of the metric families there are.
ALLOWED_LABELS: Final = frozenset(
    {"strategy_id", "decision", "signal", "ccy", "check", "result", "limit_id", "reason"}
)
# No configuration can allow these: they name instruments, or grow without end.
FORBIDDEN_LABELS: Final = frozenset({"symbol", "instrument", "ticker", "isin", "run_id"})
# What a kind of metric cannot be without.
_STRUCTURAL: Final = {"histogram": frozenset({"le"}), "summary": frozenset({"quantile"})}
# The page's own families; a session's series of that name would pass for them.
_OWN_PREFIX: Final = "ptsup_"
# The end of a line is written as \\n.
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class LabelPolicy:
    """The labels that are allowed, the structural ones aside."""

    allowed: frozenset[str] = ALLOWED_LABELS

    def find_violation(self, kind: str, key: Key) -> str | None:
        """Name the first label that keeps a series off the page; None when it may be there.

        The page goes to terminals, too, and its format has no way to write control characters:
        a series that holds some is no session's of ours.
        """
        if key.family.startswith(_OWN_PREFIX) or _CONTROL.search(key.name):
            return "__name__"
        if _CONTROL.search(key.help):
            return "__help__"
        structural = _STRUCTURAL.get(kind, frozenset())
        for label, value in key.labels:
            if label not in self.allowed and label not in structural:
                return label
            if _CONTROL.search(value):
                return label
        return None


def build_policy(extra: Iterable[str]) -> LabelPolicy:
    """Extend the allowed labels; raises ValueError for one that never may be."""
    added = frozenset(extra)
    refused = sorted(added & (FORBIDDEN_LABELS | {"pid"}))
    if refused:
        raise ValueError(f"the label {refused[0]!r} can never be allowed")
    return LabelPolicy(ALLOWED_LABELS | added)
