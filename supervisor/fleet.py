"""All processes: who comes up first, who goes down first, and the next deadline.

Pure, like the lifecycle it is made of. metricsd is up before any session and down after
the last; between the two, the sessions do not wait for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from supervisor.config import METRICSD, METRICSD_POLICY, SessionSpec
from supervisor.events import (
    Action,
    Add,
    DeadlinePassed,
    Drain,
    Drained,
    Event,
    Finish,
    Kill,
    KillAll,
    ProcessEvent,
    Restart,
    Start,
    Stop,
    StopAll,
    Tick,
)
from supervisor.lifecycle import ENDED, Process, State, Target, decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Phase(StrEnum):
    """Where the fleet is between its start and its end."""

    OPENING = "opening"  # metricsd has not answered a scrape yet
    SERVING = "serving"
    CLOSING = "closing"  # the sessions go down
    DRAINING = "draining"  # the last totals wait to be scraped
    ENDING = "ending"  # metricsd goes down
    ENDED = "ended"  # nothing runs any more


# However many fail together, so many are tried again a second, and so many at once at first. The
# first restart after a stable period is no retry, nor is a first start: neither waits for this.
RETRIES_PER_SECOND: Final = 10.0
RETRIES_AT_ONCE: Final = 10

# From CLOSING on nobody is taken in and nobody is started any more.
_OPEN: Final = frozenset({Phase.OPENING, Phase.SERVING})

Step: TypeAlias = tuple["Fleet", tuple[Action, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """metricsd and every session, in the order they were added."""

    metricsd: Process
    sessions: Mapping[str, Process] = field(default_factory=dict)
    phase: Phase = Phase.OPENING
    exit_when_done: bool = False
    hurried: bool = False  # everything is to go down at once
    retry_at: float = -math.inf  # when the bucket of retries is full again

    # -- Questions ----------------------------------------------------------------------------

    @property
    def processes(self) -> Iterable[Process]:
        """Everybody, metricsd first."""
        yield self.metricsd
        yield from self.sessions.values()

    def find(self, name: str) -> Process | None:
        """Find a process by its name."""
        return self.metricsd if name == METRICSD else self.sessions.get(name)

    @property
    def deadline(self) -> float | None:
        """The earliest deadline of all, in monotonic seconds."""
        others = [p.deadline for p in self.processes if p.deadline is not None and not _retries(p)]
        retries = [p.deadline for p in self.processes if p.deadline is not None and _retries(p)]
        if retries:
            others.append(max(min(retries), find_retry_at(self)))
        return min(others, default=None)

    @property
    def sessions_ended(self) -> bool:
        """Whether no session lives and none will by itself."""
        return all(p.state in ENDED for p in self.sessions.values())

    @property
    def failed(self) -> bool:
        """Whether any session ended, and not as it should have."""
        return any(p.failed for p in self.sessions.values())


def is_opened(process: Process) -> bool:
    """Whether there is nothing to wait for: it was spawned, could not be, or is not to be."""
    return process.incarnation > 0 or process.target is Target.DOWN


def step(fleet: Fleet, event: Event, now: float) -> Step:
    """Take one event: route it, then let the fleet go on as far as it can."""
    fleet, actions = _take(fleet, event, now)
    while True:
        phase = fleet.phase
        fleet, more = _go_on(fleet, now)
        actions += more
        if fleet.phase is phase:
            return fleet, actions


def build_fleet(
    sessions: Iterable[SessionSpec], *, exit_when_done: bool, former: Iterable[Process] = ()
) -> Fleet:
    """Build a fleet that has not started yet; Start metricsd, or adopt it, to set it going.

    `former` are the processes of a supervisor that died, each to be Adopted if it was alive.
    """
    known = {process.name: process for process in former}
    metricsd = known.pop(METRICSD, Process(name=METRICSD, policy=METRICSD_POLICY))
    fleet = Fleet(metricsd=metricsd, sessions=known, exit_when_done=exit_when_done)
    return _add(fleet, sessions)


def _take(fleet: Fleet, event: Event, now: float) -> Step:
    match event:
        case Add(sessions):
            return (_add(fleet, sessions) if fleet.phase in _OPEN else fleet), ()
        case Start() | Restart():
            return _want_up(fleet, event, now)
        case StopAll(timeout_seconds):
            return _close(fleet, [Stop(name, timeout_seconds) for name in fleet.sessions], now)
        case KillAll():
            return _close(replace(fleet, hurried=True), [Kill(n) for n in fleet.sessions], now)
        case Drained():
            return _end(fleet, now) if fleet.phase is Phase.DRAINING else (fleet, ())
        case Tick():
            return _pass_deadlines(fleet, now)
        case _:
            return _route(fleet, event, now)


def _pass_deadlines(fleet: Fleet, now: float) -> Step:
    """Tell everybody whose deadline has come; of those in backoff, the first that may go."""
    late = [p for p in fleet.processes if p.deadline is not None and p.deadline <= now]
    if not late:
        return fleet, ()
    told = [p for p in late if not _retries(p)]
    for process in sorted((p for p in late if _retries(p)), key=_read_deadline):
        if find_retry_at(fleet) > now:
            break  # it keeps its deadline, and with it its place
        fleet = replace(fleet, retry_at=max(now, fleet.retry_at) + 1 / RETRIES_PER_SECOND)
        told.append(process)
    return _route_each(fleet, [DeadlinePassed(p.name) for p in told], now)


def find_retry_at(fleet: Fleet) -> float:
    """Find when the next retry may be: the bucket holds RETRIES_AT_ONCE, and fills steadily."""
    return fleet.retry_at - (RETRIES_AT_ONCE - 1) / RETRIES_PER_SECOND


def _retries(process: Process) -> bool:
    """Whether it is one of those that may fail together: metricsd never waits for them."""
    return process.state is State.BACKOFF and process.name != METRICSD


def _read_deadline(process: Process) -> float:
    assert process.deadline is not None
    return process.deadline


def _want_up(fleet: Fleet, event: Start | Restart, now: float) -> Step:
    """Have one up: a session as soon as metricsd answers; nobody once all go down."""
    process = fleet.find(event.name)
    if process is None or fleet.phase not in _OPEN:
        return fleet, ()
    if fleet.phase is Phase.OPENING and event.name != METRICSD:
        waiting = replace(process, target=Target.UP)
        return replace(fleet, sessions={**fleet.sessions, event.name: waiting}), ()
    return _route(fleet, event, now)


def _route(fleet: Fleet, event: ProcessEvent, now: float) -> Step:
    process = fleet.find(event.name)
    if process is None:
        return fleet, ()
    after, actions = decide(process, event, now)
    if event.name == METRICSD:
        return replace(fleet, metricsd=after), actions
    if after is not process:
        fleet = replace(fleet, sessions={**fleet.sessions, event.name: after})
    return fleet, actions


def _route_each(fleet: Fleet, events: Sequence[ProcessEvent], now: float) -> Step:
    actions: tuple[Action, ...] = ()
    for event in events:
        fleet, more = _route(fleet, event, now)
        actions += more
    return fleet, actions


def _add(fleet: Fleet, sessions: Iterable[SessionSpec]) -> Fleet:
    """Take in new sessions; one that has ended gives its name to a new one, no other does."""
    living = {p.name for p in fleet.sessions.values() if p.state not in ENDED or _waits(p)}
    added = {
        spec.name: Process(name=spec.name, policy=spec.policy, target=Target.UP)
        for spec in sessions
        if spec.name not in living
    }
    kept = {name: p for name, p in fleet.sessions.items() if name not in added}
    return replace(fleet, sessions={**kept, **added})


def _go_on(fleet: Fleet, now: float) -> Step:
    """Do what the new situation allows, one phase at a time."""
    match fleet.phase:
        case Phase.OPENING if fleet.metricsd.state is State.RUNNING:
            return replace(fleet, phase=Phase.SERVING), ()
        case Phase.SERVING:
            waiting = [Start(p.name) for p in fleet.sessions.values() if _waits(p)]
            fleet, actions = _route_each(fleet, waiting, now)
            if fleet.exit_when_done and fleet.sessions and fleet.sessions_ended:
                return replace(fleet, phase=Phase.CLOSING), actions
            return fleet, actions
        case Phase.CLOSING if fleet.sessions_ended:
            if fleet.hurried or fleet.metricsd.state is not State.RUNNING:
                return _end(fleet, now)
            return replace(fleet, phase=Phase.DRAINING), (Drain(),)
        case Phase.ENDING if fleet.metricsd.state in ENDED:
            return replace(fleet, phase=Phase.ENDED), (Finish(),)
        case _:
            return fleet, ()


def _close(fleet: Fleet, wishes: Sequence[Stop | Kill], now: float) -> Step:
    """Bring the sessions down; asked again, hurry whoever is still there."""
    if fleet.phase in {Phase.DRAINING, Phase.ENDING} and fleet.hurried:
        return _end(fleet, now)
    fleet, actions = _route_each(fleet, wishes, now)
    if fleet.phase in _OPEN:
        fleet = replace(fleet, phase=Phase.CLOSING)
    return fleet, actions


def _end(fleet: Fleet, now: float) -> Step:
    wish = Kill(METRICSD) if fleet.hurried else Stop(METRICSD)
    return _route(replace(fleet, phase=Phase.ENDING), wish, now)


def _waits(process: Process) -> bool:
    """Whether it is to be up, and nobody has started it yet."""
    return process.state is State.STOPPED and process.target is Target.UP
