"""All processes: who comes up first, who goes down first, and the next deadline.

Pure, like the lifecycle it is made of. metricsd is up before any session and down after
the last; between the two, the sessions do not wait for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from supervisor.config import METRICSD, METRICSD_POLICY, Role, SessionSpec
from supervisor.events import (
    Action,
    Add,
    DeadlinePassed,
    Drain,
    Drained,
    Event,
    Finish,
    Forget,
    Kill,
    KillAll,
    ProcessEvent,
    Ready,
    Remove,
    Restart,
    Start,
    Stop,
    StopAll,
    Tick,
    Update,
)
from supervisor.lifecycle import (
    ENDED,
    Process,
    State,
    Target,
    decide,
    find_start_timeout_seconds,
)

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
    """metricsd, its companions and every session, in the order they were added."""

    metricsd: Process
    sessions: Mapping[str, Process] = field(default_factory=dict)
    exporters: Mapping[str, Process] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()  # who is no longer listed once it is down
    phase: Phase = Phase.OPENING
    exit_when_done: bool = False
    hurried: bool = False  # everything is to go down at once
    retry_at: float = -math.inf  # when the bucket of retries is full again

    # -- Questions ----------------------------------------------------------------------------

    @property
    def processes(self) -> Iterable[Process]:
        """Everybody, metricsd first."""
        yield self.metricsd
        yield from self.members

    @property
    def members(self) -> Iterable[Process]:
        """Everybody but metricsd, exporters first."""
        yield from self.exporters.values()
        yield from self.sessions.values()

    def find(self, name: str) -> Process | None:
        """Find a process by its name."""
        if name == METRICSD:
            return self.metricsd
        return self.sessions.get(name) or self.exporters.get(name)

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


def is_opened(fleet: Fleet, process: Process) -> bool:
    """Whether there is nothing to wait for: it was spawned, could not be, or is not to be.

    Nor is there when whom it waits for is not about to come up either.
    """
    seen: set[str] = set()
    while process.incarnation == 0 and process.target is Target.UP and process.name not in seen:
        seen.add(process.name)
        other = find_awaited(fleet, process)
        if other is None:
            return False
        if other.state is State.BACKOFF or (other.state in ENDED and not _waits(other)):
            return True
        process = other
        if process.state is not State.STOPPED:
            return False
    return True


def is_settled(fleet: Fleet, process: Process) -> bool:
    """Whether it is up and ready, or there is nothing to wait for."""
    return process.state is not State.STARTING and is_opened(fleet, process)


def find_awaited(fleet: Fleet, process: Process) -> Process | None:
    """Find the first whom a process waits for at its start; None when it may start.

    One that ran and ended as it should is waited for no more.
    """
    for name in process.start_after:
        other = fleet.find(name)
        if other is None or other.state is State.RUNNING:
            continue
        if other.state is not State.EXITED or other.failed:
            return other
    return None


def find_reason(fleet: Fleet, process: Process) -> str:
    """Say why a process is in its state, where that has to be said."""
    if process.reason or not _waits(process):
        return process.reason
    other = find_awaited(fleet, process)
    return "" if other is None else f"waits for {other.name}"


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
    specs: Iterable[SessionSpec], *, exit_when_done: bool, former: Iterable[Process] = ()
) -> Fleet:
    """Build a fleet that has not started yet; Start metricsd, or adopt it, to set it going.

    `former` are the processes of a supervisor that died, each to be Adopted if it was alive.
    """
    known = {process.name: process for process in former}
    metricsd = known.pop(METRICSD, Process(name=METRICSD, policy=METRICSD_POLICY))
    fleet = Fleet(metricsd=metricsd, exit_when_done=exit_when_done)
    return _add(_put(fleet, known.values()), specs)


def _take(fleet: Fleet, event: Event, now: float) -> Step:
    match event:
        case Add(specs):
            return (_add(fleet, specs) if fleet.phase in _OPEN else fleet), ()
        case Update(specs):
            return _update(fleet, specs, now)
        case Remove(names):
            fleet = replace(fleet, leaving=fleet.leaving.union(names))
            return _route_each(fleet, [Stop(name) for name in names], now)
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
    if process is None or fleet.phase not in _OPEN or event.name in fleet.leaving:
        return fleet, ()
    lives = process.state not in {*ENDED, State.BACKOFF}  # one that was adopted
    if fleet.phase is Phase.OPENING and event.name != METRICSD and not lives:
        anew = replace(process, state=State.STOPPED, target=Target.UP, deadline=None, reason="")
        return _put(fleet, [replace(anew, failures=0, failed_at=())]), ()
    return _route(fleet, event, now)


def _route(fleet: Fleet, event: ProcessEvent, now: float) -> Step:
    process = fleet.find(event.name)
    if process is None:
        return fleet, ()
    after, actions = decide(process, event, now)
    if event.name == METRICSD:
        return replace(fleet, metricsd=after), actions
    return (fleet if after is process else _put(fleet, [after])), actions


def _put(fleet: Fleet, processes: Iterable[Process]) -> Fleet:
    """Put processes in their places, new ones last."""
    processes = tuple(processes)
    exporters = {p.name: p for p in processes if p.role is Role.EXPORTER}
    sessions = {p.name: p for p in processes if p.role is Role.SESSION}
    if sessions:
        fleet = replace(fleet, sessions={**fleet.sessions, **sessions})
    return replace(fleet, exporters={**fleet.exporters, **exporters}) if exporters else fleet


def _drop(fleet: Fleet, names: Iterable[str]) -> Fleet:
    names = set(names)
    return replace(
        fleet,
        sessions={name: p for name, p in fleet.sessions.items() if name not in names},
        exporters={name: p for name, p in fleet.exporters.items() if name not in names},
        leaving=fleet.leaving - names,
    )


def _route_each(fleet: Fleet, events: Sequence[ProcessEvent], now: float) -> Step:
    actions: tuple[Action, ...] = ()
    for event in events:
        fleet, more = _route(fleet, event, now)
        actions += more
    return fleet, actions


def _add(fleet: Fleet, specs: Iterable[SessionSpec]) -> Fleet:
    """Take in new ones; one that has ended gives its name to a new one, no other does."""
    living = {p.name for p in fleet.members if p.state not in ENDED or _waits(p)}
    added = [_build_process(spec) for spec in specs if spec.name not in living]
    return _put(_drop(fleet, [process.name for process in added]), added)


def _build_process(spec: SessionSpec) -> Process:
    return Process(
        name=spec.name,
        policy=spec.policy,
        role=spec.role,
        start_after=spec.start_after,
        target=Target.UP,
    )


def _update(fleet: Fleet, specs: Iterable[SessionSpec], now: float) -> Step:
    """Give those who are there their new settings; who was to leave stays.

    Who is not ready yet gets the new time for it from now on, or need not be ready any more.
    """
    found = [(spec, process) for spec in specs if (process := fleet.find(spec.name))]
    updated = [
        _wait_anew(replace(process, policy=spec.policy, start_after=spec.start_after), now)
        for spec, process in found
    ]
    leaving = fleet.leaving - {process.name for process in updated}
    ready = [Ready(p.name, p.incarnation) for p in updated if _is_up(p)]
    return _route_each(replace(_put(fleet, updated), leaving=leaving), ready, now)


def _wait_anew(process: Process, now: float) -> Process:
    timeout = find_start_timeout_seconds(process)
    if process.state is not State.STARTING or timeout is None:
        return process
    return replace(process, deadline=now + timeout)


def _is_up(process: Process) -> bool:
    """Whether it was spawned, and need not be ready for anything."""
    return process.pid is not None and find_start_timeout_seconds(process) is None


def _go_on(fleet: Fleet, now: float) -> Step:
    """Do what the new situation allows, one phase at a time."""
    fleet, forgotten = _let_leave(fleet)
    fleet, actions = _go_through(fleet, now)
    return fleet, (*forgotten, *actions)


def _go_through(fleet: Fleet, now: float) -> Step:
    match fleet.phase:
        case Phase.OPENING if fleet.metricsd.state is State.RUNNING:
            return replace(fleet, phase=Phase.SERVING), ()
        case Phase.SERVING:
            fleet, actions = _start_waiting(fleet, now)
            if fleet.exit_when_done and fleet.sessions and fleet.sessions_ended:
                return replace(fleet, phase=Phase.CLOSING), actions
            return fleet, actions
        case Phase.CLOSING if fleet.sessions_ended:
            if fleet.hurried or fleet.metricsd.state is not State.RUNNING:
                return _end(fleet, now)
            return replace(fleet, phase=Phase.DRAINING), (Drain(),)
        case Phase.ENDING if fleet.metricsd.state in ENDED and all(
            p.state in ENDED for p in fleet.exporters.values()
        ):
            return replace(fleet, phase=Phase.ENDED), (Finish(),)
        case _:
            return fleet, ()


def _start_waiting(fleet: Fleet, now: float) -> Step:
    """Start whoever is to be up and waits for nobody else."""
    free = [p for p in fleet.members if _waits(p) and find_awaited(fleet, p) is None]
    return _route_each(fleet, [Start(process.name) for process in free], now)


def _let_leave(fleet: Fleet) -> Step:
    """Take off the list who was to leave, and is down."""
    gone = [
        name
        for name in sorted(fleet.leaving)
        if (process := fleet.find(name)) is None or process.state in ENDED
    ]
    return (_drop(fleet, gone) if gone else fleet), tuple(map(Forget, gone))


def _close(fleet: Fleet, wishes: Sequence[Stop | Kill], now: float) -> Step:
    """Bring the sessions down; asked again, hurry whoever is still there."""
    if fleet.phase in {Phase.DRAINING, Phase.ENDING} and fleet.hurried:
        return _end(fleet, now)
    fleet, actions = _route_each(fleet, wishes, now)
    if fleet.phase in _OPEN:
        fleet = replace(fleet, phase=Phase.CLOSING)
    return fleet, actions


def _end(fleet: Fleet, now: float) -> Step:
    """Bring down what the sessions were served by: metricsd, and the exporters with it."""
    names = (METRICSD, *fleet.exporters)
    wish = Kill if fleet.hurried else Stop
    return _route_each(replace(fleet, phase=Phase.ENDING), [wish(name) for name in names], now)


def _waits(process: Process) -> bool:
    """Whether it is to be up, and nobody has started it yet."""
    return process.state is State.STOPPED and process.target is Target.UP
