"""What is not as it should be: a finding says of whom, what was expected, and what to do.

Pure. Drift is told and never kills. `drift.find` finds it, by one rule for each kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCHEMA: Final = "ptsup.drift/1"
ORPHAN_SHARD: Final = "orphan-shard"
FOREIGN_SHARD: Final = "foreign-shard"
MISSING_SHARD: Final = "missing-shard"
UNLINKED_SHARD: Final = "unlinked-shard"
UNREADABLE_SHARD: Final = "unreadable-shard"
UNEXPECTED_FILE: Final = "unexpected-file"
DIRECTORY_REPLACED: Final = "directory-replaced"
DIRECTORY_MISSING: Final = "directory-missing"
STALE_VALUES: Final = "stale-values"
ENV_MISMATCH: Final = "env-mismatch"
SESSION_LISTENS: Final = "session-listens"
PORT_CONFLICT: Final = "port-conflict"
LISTENER_LOST: Final = "listener-lost"
LABEL_VIOLATION: Final = "label-violation"
CONFIG_CHANGED: Final = "config-changed"
METRICSD_UNHEALTHY: Final = "metricsd-unhealthy"
CLAIM_FAILED: Final = "claim-failed"
LOG_UNROTATABLE: Final = "log-unrotatable"
# All the kinds that are looked for.
KINDS: Final = (
    *(ORPHAN_SHARD, FOREIGN_SHARD, MISSING_SHARD, UNLINKED_SHARD, UNREADABLE_SHARD),
    *(UNEXPECTED_FILE, DIRECTORY_REPLACED, DIRECTORY_MISSING, STALE_VALUES, ENV_MISMATCH),
    *(SESSION_LISTENS, PORT_CONFLICT, LISTENER_LOST, LABEL_VIOLATION, CONFIG_CHANGED),
    *(METRICSD_UNHEALTHY, CLAIM_FAILED, LOG_UNROTATABLE),
)
# How long what ptsup has mended itself stays listed.
MENDED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that drifted, in words; `since` is monotonic seconds.

    Kind and subject say which one it is: while both stay, it is the same finding.
    """

    kind: str
    subject: str
    expected: str
    actual: str
    hint: str
    since: float


@dataclass(frozen=True, slots=True)
class Change:
    """What is listed now, and what of it is new; and what is not listed any more."""

    findings: tuple[Finding, ...]
    appeared: tuple[Finding, ...]
    cleared: tuple[Finding, ...]


def diff_findings(former: Sequence[Finding], found: Iterable[Finding]) -> Change:
    """Compare with the findings before; one that goes on keeps the time of its beginning."""
    before = {(known.kind, known.subject): known for known in former}
    now: dict[tuple[str, str], Finding] = {}
    for fresh in found:
        known = before.get((fresh.kind, fresh.subject))
        since = fresh.since if known is None else min(known.since, fresh.since)
        now[fresh.kind, fresh.subject] = replace(fresh, since=since)
    appeared = tuple(fresh for key, fresh in now.items() if key not in before)
    cleared = tuple(known for key, known in before.items() if key not in now)
    return Change(tuple(now.values()), appeared, cleared)


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
