"""Who is ours at this moment, and how each is to run: for all who look at them now and then."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.adoptee import Adoptee
from supervisor.config import METRICSD, SUPERVISOR, Role
from supervisor.config.marks import build_marks, diff_marks
from supervisor.config.values import find_awaited_port
from supervisor.drift.facts import Outdated, SessionPlan
from supervisor.environ import build_planned
from supervisor.look.processes import Crew, Member
from supervisor.process import State, Target
from telemetry.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.admission import Admitted
    from supervisor.children import Children, Origin
    from supervisor.config import Config, LogLimits, Readiness, SessionSpec
    from supervisor.config.diff import Keys
    from supervisor.fleet import Fleet
    from supervisor.process import Process


@dataclass(slots=True)
class Roster:
    """The sessions, listed anew only when one of them has changed, which the fleet tells.

    Whatever changes in `members` or `children` changes a process of the fleet, too.
    """

    members: Mapping[str, Admitted]
    children: Children
    multiproc_dir: Path
    _sessions: Mapping[str, Process] | None = None
    _living: tuple[Member, ...] = ()
    _planned: Mapping[str, SessionPlan] = field(default_factory=dict)

    def find_crew(self, sessions: Mapping[str, Process]) -> Crew:
        """List the living leaders of sessions, and all our children."""
        self._list(sessions)
        return Crew(self._living, frozenset(self.children.find_own()))

    def find_planned(self, sessions: Mapping[str, Process]) -> Mapping[str, SessionPlan]:
        """Find how each session was to run."""
        self._list(sessions)
        return self._planned

    def _list(self, sessions: Mapping[str, Process]) -> None:
        if sessions is not self._sessions:
            self._sessions = sessions
            self._living = _list_living(sessions, self.children)
            self._planned = _list_planned(self.members, self.multiproc_dir)


def _list_living(sessions: Mapping[str, Process], children: Children) -> tuple[Member, ...]:
    return tuple(
        Member(
            name=process.name,
            incarnation=process.incarnation,
            pid=process.pid,
            nonce=children.find_nonce(process.name),
            started_at=process.started_at or 0.0,
            adopted=isinstance(children.present.get(process.name), Adoptee),
        )
        for process in sessions.values()
        if process.pid is not None and not process.dead
    )


def _list_planned(members: Mapping[str, Admitted], multiproc_dir: Path) -> dict[str, SessionPlan]:
    return {
        name: SessionPlan(
            variables=build_planned(member.spec, multiproc_dir),
            shares=member.spec.mode is Mode.B,
            ports=frozenset(filter(None, [find_awaited_port(member.spec.ready)])),
        )
        for name, member in members.items()
        if member.spec.role is Role.SESSION
    }


def find_outdated(
    fleet: Fleet, children: Children, members: Mapping[str, Admitted]
) -> tuple[Outdated, ...]:
    """Find who was adopted, and spawned by something else than is wanted of it by now."""
    return tuple(
        Outdated(name, child.pid, member.outdated)
        for name, child in children.present.items()
        if isinstance(child, Adoptee)
        and (member := members.get(name)) is not None
        and member.outdated
        and (process := fleet.find(name)) is not None
        and process.target is Target.UP
    )


def find_otherwise(child: object, origin: Origin | None, spec: SessionSpec) -> Keys | None:
    """Name the keys by which one that was adopted was spawned otherwise than by a spec.

    None for any other: who was spawned by us was spawned by what we know of it.
    """
    if origin is None or not origin.marks or not isinstance(child, Adoptee):
        return None
    return diff_marks(origin.marks, build_marks(spec, origin.nonce))


def find_unready(fleet: Fleet, members: Mapping[str, Admitted]) -> list[tuple[Process, Readiness]]:
    """Find who was spawned and waits to be ready, and what by."""
    return [
        (process, ready)
        for name in fleet.timed
        if (process := fleet.find(name)) is not None
        and process.state is State.STARTING
        and process.pid is not None
        and name in members
        and (ready := members[name].spec.ready) is not None
    ]


def find_logs(config: Config, members: Mapping[str, Admitted]) -> dict[str, LogLimits]:
    """Find whose logs are kept short, and how short: everybody's, our own too."""
    sessions = {name: member.spec.log for name, member in members.items()}
    return {METRICSD: config.log, SUPERVISOR: config.log, **sessions}
