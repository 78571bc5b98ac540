"""The roster of the sessions: kept while nobody changes, and true as soon as anybody does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from supervisor.admission import Admitted
from supervisor.children import Children, Origin
from supervisor.config import SessionSpec
from supervisor.crew import Roster
from supervisor.environ import build_starter
from supervisor.events import Add, Spawned, Start, Update
from supervisor.fleet import Fleet, put
from supervisor.process import State
from supervisor.step import build_fleet, step
from telemetry.mode import Mode

PAPER: Final = SessionSpec(name="paper", command=("true",), cwd=Path("/"))


def take(fleet: Fleet, *events: Add | Update | Start | Spawned) -> Fleet:
    for event in events:
        fleet, _ = step(fleet, event, 1.0)
    return fleet


def test_the_roster_is_listed_anew_when_somebody_has_changed_and_only_then() -> None:
    children, members = Children(), {"paper": Admitted(PAPER, build_starter({}))}
    children.origins["paper"] = Origin(1, "nonce")
    roster = Roster(members, children, Path("/shards"))
    fleet = build_fleet((), exit_when_done=False)
    fleet = put(fleet, [replace(fleet.metricsd, state=State.RUNNING)])
    fleet = take(fleet, Add((PAPER,)))
    assert roster.find_crew(fleet.sessions).members == ()
    assert roster.find_planned(fleet.sessions)["paper"].shares

    incarnation = fleet.sessions["paper"].incarnation
    fleet = take(fleet, Spawned("paper", incarnation, 77))
    (member,) = roster.find_crew(fleet.sessions).members
    assert (member.name, member.pid, member.nonce) == ("paper", 77, "nonce")
    assert roster.find_crew(fleet.sessions).members[0] is member

    spec = replace(PAPER, mode=Mode.A, port=9300)
    members["paper"] = Admitted(spec, build_starter({}))
    fleet = take(fleet, Update((spec,)))
    assert not roster.find_planned(fleet.sessions)["paper"].shares
