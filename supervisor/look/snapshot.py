"""A look, and what others noted, become the snapshot that drift is found in.

It asks nobody, and remembers who wrote what.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor.drift.facts import Defective, SessionFacts, Snapshot, Violation
from supervisor.look.health import read_defects, read_violations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from supervisor.drift.facts import (
        FailedClaim,
        Lapse,
        LostListener,
        Orphan,
        Outdated,
        Unrotatable,
    )
    from supervisor.look.everything import Look
    from supervisor.look.health import ToldViolation

# The names of so many dead writers are remembered, for what metricsd tells of them later.
_WRITERS_KEPT: Final = 1000
# What metricsd writes for a pid that is in no shard any more.
_IN_THE_BASE: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What the supervisor knows without having to look."""

    failed_claims: tuple[FailedClaim, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    lapses: tuple[Lapse, ...] = ()
    lost_listeners: tuple[LostListener, ...] = ()
    unrotatable: tuple[Unrotatable, ...] = ()
    outdated: tuple[Outdated, ...] = ()


@dataclass(slots=True)
class Memory:
    """Who wrote, and since when a violation is told: metricsd knows pids, and only for now."""

    _sessions: dict[int, str] = field(default_factory=dict)
    _seen_at: dict[tuple[str, str, int], float] = field(default_factory=dict)
    _offenders: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def learn(self, look: Look) -> None:
        """Remember who writes."""
        self._sessions.update(look.writers.sessions)
        for pid in list(self._sessions)[:-_WRITERS_KEPT]:
            del self._sessions[pid]

    def find_session(self, pid: int) -> str:
        """Name the session a shard's pid is or was of; "" for nobody of ours."""
        return self._sessions.get(pid, "")

    def read_violations(
        self, health: Mapping[str, Any], look: Look, now: float
    ) -> tuple[Violation, ...]:
        """Read what metricsd left off the page, by who wrote it."""
        told: defaultdict[tuple[str, str, int], list[ToldViolation]] = defaultdict(list)
        for each in read_violations(health):
            told[each.metric, each.label, each.pid].append(each)
        self._seen_at = {key: self._seen_at.get(key, now) for key in told}
        living = look.writers.sessions.keys() | {f.pid for f in look.writers.foreigners}
        found = []
        for (metric, label, pid), parts in told.items():
            writer = self._name_writer(metric, label, pid, look)
            found.append(
                Violation(
                    metric,
                    label,
                    sum(part.series for part in parts),
                    writer,
                    tuple(sorted(part.shard for part in parts if part.shard)),
                    lives=pid in living,
                    seen_at=self._seen_at[metric, label, pid],
                )
            )
        return tuple(found)

    def _name_writer(self, metric: str, label: str, pid: int, look: Look) -> str:
        offenders = self._offenders.setdefault((metric, label), set())
        if pid == _IN_THE_BASE:
            return f"{', '.join(sorted(offenders)[:3]) or 'a process'}, which has ended"
        if session := self.find_session(pid):
            offenders.add(session)
            return f"{session} (pid {pid})"
        for foreigner in look.writers.foreigners:
            if foreigner.pid == pid:
                return f"pid {pid} ({foreigner.command})"
        return f"pid {pid}"


def build_snapshot(
    look: Look, health: Mapping[str, Any], noted: Noted, memory: Memory, now: float
) -> Snapshot:
    """Put together what is known at `now`; `health` is metricsd's last document."""
    memory.learn(look)
    defects = {**read_defects(health), **look.directory.defects}
    shards = look.directory.shards
    return Snapshot(
        now=now,
        directory=look.directory.facts,
        strays=look.directory.strays,
        defective=tuple(
            Defective(name, reason, memory.find_session(shards[name].pid) if name in shards else "")
            for name, reason in sorted(defects.items())
            # What metricsd said at its last look may have gone since.
            if name in shards or name in look.directory.defects
        ),
        foreigners=look.writers.foreigners,
        sessions=tuple(
            SessionFacts(
                name=member.name,
                pid=member.pid,
                silent_seconds=None if member.key in look.shown else now - member.started_at,
                unmoved_seconds=look.unmoved.get(member.name),
                unlinked=look.unlinked.get(member.name, ()),
                environments=look.environments.get(member.name, ()),
            )
            for member in look.crew.members
        ),
        listening=look.listening,
        config_changes=look.config_changes,
        orphans=noted.orphans,
        failed_claims=noted.failed_claims,
        violations=memory.read_violations(health, look, now),
        lapses=noted.lapses,
        lost_listeners=noted.lost_listeners,
        unrotatable=noted.unrotatable,
        outdated=noted.outdated,
    )
