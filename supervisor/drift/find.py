"""Drift, found: every rule is asked; what they say is bounded, and harmless to show. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from supervisor.drift import MENDED_SECONDS
from supervisor.drift.directory import (
    find_claim_failed,
    find_directory_missing,
    find_directory_replaced,
    find_foreign_shard,
    find_orphan_shard,
    find_unexpected_file,
    find_unreadable_shard,
)
from supervisor.drift.sessions import (
    find_env_mismatch,
    find_label_violation,
    find_missing_shard,
    find_session_listens,
    find_stale_values,
    find_unlinked_shard,
)
from supervisor.drift.stack import (
    find_config_changed,
    find_listener_lost,
    find_log_unrotatable,
    find_metricsd_unhealthy,
    find_port_conflict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.drift import Finding
    from supervisor.drift.facts import Plan, Snapshot

# In the order of `drift.KINDS`: the rule for each.
RULES: Final[tuple[Callable[[Plan, Snapshot], Iterator[Finding]], ...]] = (
    find_orphan_shard,
    find_foreign_shard,
    find_missing_shard,
    find_unlinked_shard,
    find_unreadable_shard,
    find_unexpected_file,
    find_directory_replaced,
    find_directory_missing,
    find_stale_values,
    find_env_mismatch,
    find_session_listens,
    find_port_conflict,
    find_listener_lost,
    find_label_violation,
    find_config_changed,
    find_metricsd_unhealthy,
    find_claim_failed,
    find_log_unrotatable,
)
# Somebody may put 10,000 files where the shards are; a person reads a few.
KIND_LIMIT: Final = 50
_SUBJECT_CHARACTERS: Final = 160
_TEXT_CHARACTERS: Final = 400


def find_drift(plan: Plan, snapshot: Snapshot) -> list[Finding]:
    """Find what is not as planned: at most so many of each kind, the last one counting the rest."""
    findings = []
    for rule in RULES:
        found = rule(plan, snapshot)
        shown = [_clean(finding) for finding in islice(found, KIND_LIMIT)]
        findings += shown
        more = sum(1 for _ in found)
        if more:
            findings.append(
                replace(shown[-1], subject="and more", actual=f"{more} more like these")
            )
    return findings


def _clean(found: Finding) -> Finding:
    """Make harmless what came from outside: a file's name, a command, a label."""
    return replace(
        found,
        subject=_escape(found.subject, _SUBJECT_CHARACTERS),
        expected=_escape(found.expected, _TEXT_CHARACTERS),
        actual=_escape(found.actual, _TEXT_CHARACTERS),
        hint=_escape(found.hint, _TEXT_CHARACTERS),
    )


def _escape(text: str, limit: int) -> str:
    """Write in one line of text what no terminal takes for a command, cut to a length."""
    harmless = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[: limit + 1]
    )
    return harmless if len(harmless) <= limit else f"{harmless[: limit - 1]}…"


def find_expiry(plan: Plan, snapshot: Snapshot) -> float:
    """Find when time alone will change what is found; infinite for never.

    When the first of what is listed only for a while has been so, or has been missing for long.
    """
    moments = (
        *(orphan.at for orphan in snapshot.orphans),
        *(lost.at for lost in snapshot.lost_listeners),
        *(lapse.ended for lapse in snapshot.lapses if lapse.ended is not None),
        *(violation.seen_at for violation in snapshot.violations if not violation.lives),
    )
    ends = (moment + MENDED_SECONDS for moment in moments)
    silent = (session.silent_seconds for session in snapshot.sessions)
    left = (plan.missing_shard_seconds - seconds for seconds in silent if seconds is not None)
    dues = (
        *(end for end in ends if end > snapshot.now),
        *(snapshot.now + seconds for seconds in left if seconds > 0),
    )
    return min(dues, default=math.inf)
