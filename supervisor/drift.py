"""What is not as it should be: a finding says of whom, what was expected, and what to do.

Pure. Drift is told and never kills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

CLAIM_FAILED: Final = "claim-failed"
# All the kinds that are looked for.
KINDS: Final = (CLAIM_FAILED,)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that drifted, in words; `since` is monotonic seconds."""

    kind: str
    subject: str
    expected: str
    actual: str
    hint: str
    since: float


def build_drift(findings: Iterable[Finding], now: float) -> list[dict[str, Any]]:
    """Build the status document's part, the oldest first."""
    return [
        {
            "kind": found.kind,
            "subject": found.subject,
            "expected": found.expected,
            "actual": found.actual,
            "hint": found.hint,
            "since_seconds": round(now - found.since, 3),
        }
        for found in sorted(findings, key=lambda found: found.since)
    ]
