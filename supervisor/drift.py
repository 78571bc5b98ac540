"""What is not as it should be: a finding says of whom, what was expected, and what to do.

Pure. Drift is told and never kills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

CLAIM_FAILED: Final = "claim-failed"
LISTENER_LOST: Final = "listener-lost"
# All the kinds that are looked for.
KINDS: Final = (CLAIM_FAILED, LISTENER_LOST)
# How long what ptsup has mended itself stays listed.
MENDED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that drifted, in words; `since` is monotonic seconds."""

    kind: str
    subject: str
    expected: str
    actual: str
    hint: str
    since: float


def build_listener_lost(address: str, pid: int, now: float) -> Finding:
    """Build what is told when a hung metricsd took the listening socket with it."""
    return Finding(
        kind=LISTENER_LOST,
        subject=f"metricsd (pid {pid})",
        expected="metricsd gives the listening socket back after a crash of the supervisor",
        actual=f"it did not answer: it was killed, and {address} bound anew",
        hint="a scrape at that moment failed; nothing has to be done",
        since=now,
    )


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
