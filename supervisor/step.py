"""What becomes of the fleet when something happens: who comes up first, who goes down first.

Pure, like the lifecycle it is made of. metricsd is up before any session and down after
the last; between the two, the sessions do not wait for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from supervisor.config import METRICSD, METRICSD_POLICY, Role, SessionSpec
from supervisor.events import (
    Action,
    Add,
    Batch,
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
from supervisor.fleet import (
    RETRIES_PER_SECOND,
    Fleet,
    Phase,
    drop,
    find_awaited,
    find_retry_at,
    put,
    waits,
)
from supervisor.lifecycle import decide, find_start_timeout_seconds
from supervisor.process import ENDED, Process, State, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# From CLOSING on nobody is taken in and nobody is started any more.
_OPEN: Final = frozenset({Phase.OPENING, Phase.SERVING})

Step: TypeAlias = tuple[Fleet, tuple[Action, ...]]


def step(fleet: Fleet, event: Event, now: float) -> Step:
    """Take one event: route it, then let the fleet go on as far as it can."""
    fleet, actions = _take(replace(fleet, touched={}) if fleet.touched else fleet, event, now)
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
    return _add(put(fleet, known.values()), specs)


def _take(fleet: Fleet, event: Event, now: float) -> Step:
    match event:
        case Add(specs):
            return (_add(fleet, specs) if fleet.phase in _OPEN else fleet), ()
        case Update(specs):
            return _update(fleet, specs, now)
        case Remove(names):
            touched = {**fleet.touched, **dict.fromkeys(names)}
            fleet = replace(fleet, leaving=fleet.leaving.union(names), touched=touched)
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
        case Batch(events):
            return _route_each(fleet, events, now)
        case _:
            return _route_each(fleet, [event], now)


def _pass_deadlines(fleet: Fleet, now: float) -> Step:
    """Tell everybody whose deadline has come; of those in backoff, the first that may go."""
    others, retries = fleet.list_deadlines()
    told = [process for moment, process in others if moment <= now]
    for moment, process in sorted(retries, key=lambda late: late[0]):
        if moment > now or find_retry_at(fleet) > now:
            break  # it keeps its deadline, and with it its place
        fleet = replace(fleet, retry_at=max(now, fleet.retry_at) + 1 / RETRIES_PER_SECOND)
        told.append(process)
    return _route_each(fleet, [DeadlinePassed(p.name) for p in told], now)


def _want_up(fleet: Fleet, event: Start | Restart, now: float) -> Step:
    """Have one up: a session as soon as metricsd answers; nobody once all go down."""
    process = fleet.find(event.name)
    if process is None or fleet.phase not in _OPEN or event.name in fleet.leaving:
        return fleet, ()
    lives = process.state not in {*ENDED, State.BACKOFF}  # one that was adopted
    if fleet.phase is Phase.OPENING and event.name != METRICSD and not lives:
        anew = replace(process, state=State.STOPPED, target=Target.UP, deadline=None, reason="")
        return put(fleet, [replace(anew, failures=0, failed_at=())]), ()
    return _route_each(fleet, [event], now)


def _route_each(fleet: Fleet, events: Iterable[ProcessEvent], now: float) -> Step:
    """Have each decided in turn; the fleet is put together once, however many they are."""
    changed: dict[str, Process] = {}
    actions: list[Action] = []
    for event in events:
        process = changed.get(event.name) or fleet.find(event.name)
        if process is None:
            continue
        after, more = decide(process, event, now)
        if after is not process:
            changed[event.name] = after
        actions += more
    return put(fleet, changed.values()), tuple(actions)


def _add(fleet: Fleet, specs: Iterable[SessionSpec]) -> Fleet:
    """Take in new ones; one that has ended gives its name to a new one, no other does."""
    living = {p.name for p in fleet.members if p.state not in ENDED or waits(p)}
    added = [_build_process(spec) for spec in specs if spec.name not in living]
    return put(drop(fleet, [process.name for process in added]), added)


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
    return _route_each(replace(put(fleet, updated), leaving=leaving), ready, now)


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
    waiting = [process for name in fleet.waiting if (process := fleet.find(name))]
    free = [process for process in waiting if find_awaited(fleet, process) is None]
    free.sort(key=lambda process: process.role is not Role.EXPORTER)  # they come first
    return _route_each(fleet, [Start(process.name) for process in free], now)


def _let_leave(fleet: Fleet) -> Step:
    """Take off the list who was to leave, and is down."""
    gone = [
        name
        for name in sorted(fleet.leaving & fleet.touched.keys())
        if (process := fleet.find(name)) is None or process.state in ENDED
    ]
    return (drop(fleet, gone) if gone else fleet), tuple(map(Forget, gone))


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
