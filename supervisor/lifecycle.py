"""One process: its states, the one table of its transitions, and `decide()`.

Pure: no clock, no I/O, no sleep. The wanted state (target) is kept apart from the actual
one, so a restart is a stop with target up; a process has one deadline, stored as data;
`stopped` is never said before the reap.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

from supervisor.config import METRICSD, Policy, RestartWhen
from supervisor.events import (
    Action,
    Adopted,
    ChildEvent,
    Claim,
    Claimed,
    ClaimFailed,
    DeadlinePassed,
    Exited,
    GroupGone,
    Kill,
    ProcessEvent,
    Ready,
    Reap,
    Reaped,
    Restart,
    SignalGroup,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    Unhealthy,
)
from supervisor.process import Ending, Process, State, Target
from supervisor.restarts import (
    describe_intensity,
    find_backoff_seconds,
    find_failures,
    is_too_intense,
    wants_restart,
    was_stable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A process that does not die of KILL waits in the kernel, or forked while it was dying.
KILL_AGAIN_SECONDS: Final = 1.0
# A full or read-only disk may be neither in a moment; a second later the pid is worth more
# than its shards, which stay where they are and still count.
CLAIM_AGAIN_SECONDS: Final = 0.1
CLAIM_TRIES: Final = 10


_CHILD_EVENTS: Final = get_args(ChildEvent)
Decision: TypeAlias = tuple[Process, tuple[Action, ...]]


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event does in a state, and the states it may lead to."""

    apply: Callable[[Process, Any, float], Decision]
    to: tuple[State, ...]


def decide(process: Process, event: ProcessEvent, now: float) -> Decision:
    """Say what becomes of `process` when `event` happens at `now`, and what is to be done.

    News of another incarnation and events without a row in TRANSITIONS change nothing.
    """
    if isinstance(event, _CHILD_EVENTS) and event.incarnation != process.incarnation:
        return process, ()
    transition = TRANSITIONS[process.state].get(type(event))
    if transition is None:
        return process, ()
    return transition.apply(process, event, now)


# -- Up ---------------------------------------------------------------------------------------


def _spawn(process: Process, now: float) -> Decision:
    incarnation = process.incarnation + 1
    timeout = find_start_timeout_seconds(process)
    after = replace(
        process,
        state=State.STARTING,
        target=Target.UP,
        incarnation=incarnation,
        deadline=None if timeout is None else now + timeout,
        started_at=None,
        ready_at=None,
        ended_at=None,
        returncode=None,
        reason="",
    )
    return after, (Spawn(process.name, incarnation),)


def find_start_timeout_seconds(process: Process) -> float | None:
    """How long it may take to be ready: longer after each late start; None when it need not be."""
    policy = process.policy
    if policy.start_timeout_seconds is None:
        return None
    doubled = policy.start_timeout_seconds * 2.0 ** min(process.late_starts, 32)
    return min(doubled, policy.start_timeout_limit_seconds)


def _start(process: Process, _event: Start | Restart, now: float) -> Decision:
    return _spawn(replace(process, ending=None, failures=0, failed_at=()), now)


def _retry(process: Process, _event: DeadlinePassed, now: float) -> Decision:
    return _spawn(process, now)


def _note_spawned(process: Process, event: Spawned, now: float) -> Decision:
    if process.policy.start_timeout_seconds:
        return replace(process, pid=event.pid, started_at=now), ()
    return _run(process, event.pid, now, now)


def _note_ready(process: Process, _event: Ready, now: float) -> Decision:
    return _run(process, process.pid, process.started_at, now)


def _run(process: Process, pid: int | None, started_at: float | None, now: float) -> Decision:
    running = replace(
        process,
        state=State.RUNNING,
        pid=pid,
        started_at=started_at,
        deadline=None,
        ready_at=now,
        late_starts=0,
    )
    return running, ()


def _adopt(process: Process, event: Adopted, now: float) -> Decision:
    """Go on where a dead supervisor left it: up, or on the way down that somebody asked for."""
    started_at = now if process.started_at is None else process.started_at
    after = replace(process, pid=event.pid, started_at=started_at)
    if event.pid is None:
        lost = replace(after, ending=process.ending or Ending.BY_ITSELF, ended_at=now)
        return _settle(lost, Reaped(process.name, process.incarnation, None), now)
    if process.ending is Ending.ASKED or process.target is Target.DOWN:
        asked = replace(after, ending=Ending.ASKED)
        return _term(asked, process.policy.stop_timeout_seconds, now)
    timeout = find_start_timeout_seconds(process)
    up = replace(after, ending=None)
    # Of those that were ready, metricsd alone has to show it again: it may hang, and is restarted.
    shows = process.name == METRICSD or process.ready_at is None
    if timeout is not None and shows:
        return replace(up, state=State.STARTING, ready_at=None, deadline=now + timeout), ()
    ready_at = started_at if process.ready_at is None else process.ready_at
    return replace(up, state=State.RUNNING, ready_at=ready_at), ()


# -- Down -------------------------------------------------------------------------------------


def _signal(process: Process, number: signal.Signals) -> tuple[Action, ...]:
    # Between Spawn and Spawned there is no pid yet; _note_spawned_late makes up for it. And a
    # zombie that only waits for its claim hears nothing.
    if process.pid is None or (process.dead and not process.remains):
        return ()
    return (SignalGroup(process.name, process.incarnation, number),)


def _term(process: Process, timeout_seconds: float, now: float) -> Decision:
    after = replace(process, state=State.STOPPING, deadline=now + timeout_seconds)
    return after, _signal(after, find_stop_signal(after.policy))


def find_stop_signal(policy: Policy) -> signal.Signals:
    """Find the signal that asks a process to end."""
    return signal.Signals[f"SIG{policy.stop_signal}"]


def _kill(process: Process, now: float) -> Decision:
    after = replace(process, state=State.KILLING, deadline=now + KILL_AGAIN_SECONDS)
    return after, _signal(after, signal.SIGKILL)


def _stop(process: Process, event: Stop, now: float) -> Decision:
    asked = replace(process, target=Target.DOWN, ending=Ending.ASKED, reason=event.reason)
    return _term(asked, _stop_timeout_seconds(process, event), now)


def _stop_timeout_seconds(process: Process, event: Stop) -> float:
    if event.timeout_seconds is not None:
        return event.timeout_seconds
    return process.policy.stop_timeout_seconds


def _restart(process: Process, _event: Restart, now: float) -> Decision:
    asked = replace(process, target=Target.UP, ending=Ending.ASKED, failures=0, failed_at=())
    return _term(asked, process.policy.stop_timeout_seconds, now)


def _kill_asked(process: Process, _event: Kill, now: float) -> Decision:
    ending = process.ending or Ending.ASKED
    return _kill(replace(process, target=Target.DOWN, ending=ending), now)


def _go_on(process: Process, _event: DeadlinePassed, now: float) -> Decision:
    if process.dead and not process.remains:
        return _claim(process, now)
    return _kill(process, now)


def _kill_unready(process: Process, _event: DeadlinePassed, now: float) -> Decision:
    reason = f"not ready {find_start_timeout_seconds(process):g} s after its start"
    late = process.late_starts + 1
    return _kill(replace(process, ending=Ending.UNHEALTHY, reason=reason, late_starts=late), now)


def _kill_unhealthy(process: Process, event: Unhealthy, now: float) -> Decision:
    return _kill(replace(process, ending=Ending.UNHEALTHY, reason=event.reason), now)


def _hurry(process: Process, event: Stop, now: float) -> Decision:
    deadline = now + _stop_timeout_seconds(process, event)
    if process.deadline is not None:
        deadline = min(deadline, process.deadline)
    return replace(process, target=Target.DOWN, deadline=deadline), ()


def _want_down(process: Process, _event: Stop | Kill, _now: float) -> Decision:
    return replace(process, target=Target.DOWN), ()


def _want_up(process: Process, _event: Start | Restart, _now: float) -> Decision:
    return replace(process, target=Target.UP, ending=Ending.ASKED, failures=0, failed_at=()), ()


def _give_up_waiting(process: Process, _event: Stop | Kill, _now: float) -> Decision:
    return replace(process, state=State.STOPPED, target=Target.DOWN, deadline=None), ()


def _note_spawned_late(process: Process, event: Spawned, now: float) -> Decision:
    after = replace(process, pid=event.pid, started_at=now)
    stopping = process.state is State.STOPPING
    number = find_stop_signal(process.policy) if stopping else signal.SIGKILL
    return after, _signal(after, number)


# -- Gone -------------------------------------------------------------------------------------


def _note_exited(process: Process, event: Exited, now: float) -> Decision:
    """Peek is done: claim; TERM what is left of the group; reap only when nothing is."""
    after = replace(
        process,
        dead=True,
        remains=event.remains,
        ended_at=now,
        returncode=event.returncode,
        ending=process.ending or Ending.BY_ITSELF,
    )
    on_the_way_out = process.state in {State.STOPPING, State.KILLING}
    if not event.remains:
        return _claim(after if on_the_way_out else replace(after, state=State.STOPPING), now)
    if on_the_way_out:  # TERM or KILL went to the whole group already
        return after, (_build_claim(after),)
    after, actions = _term(after, process.policy.stop_timeout_seconds, now)
    return after, (_build_claim(after), *actions)


def _claim(process: Process, now: float) -> Decision:
    """Claim once more; the deadline is free for it when nobody is left to be killed."""
    return replace(process, deadline=now + CLAIM_AGAIN_SECONDS), (_build_claim(process),)


def _build_claim(process: Process) -> Claim:
    assert process.pid is not None
    return Claim(process.name, process.incarnation, process.pid)


def _note_claimed(process: Process, _event: Claimed, _now: float) -> Decision:
    return _reap_if_over(replace(process, claimed=True))


def _note_claim_failed(process: Process, _event: ClaimFailed, _now: float) -> Decision:
    failures = process.claim_failures + 1
    return _reap_if_over(replace(process, claim_failures=failures))


def _note_group_gone(process: Process, _event: GroupGone, now: float) -> Decision:
    if not process.remains:
        return process, ()
    alone = replace(process, remains=False)
    return _reap_if_over(alone) if _is_claim_over(alone) else _claim(alone, now)


def _reap_if_over(process: Process) -> Decision:
    if not process.dead or process.remains or not _is_claim_over(process):
        return process, ()
    return replace(process, deadline=None), (Reap(process.name, process.incarnation),)


def _is_claim_over(process: Process) -> bool:
    return process.claimed or process.claim_failures >= CLAIM_TRIES


def _settle(process: Process, event: Reaped, now: float) -> Decision:
    gone = replace(
        process,
        pid=None,
        dead=False,
        remains=False,
        claimed=False,
        claim_failures=0,
        deadline=None,
        returncode=event.returncode,
        ending=None,
    )
    if process.ending is Ending.ASKED:
        if process.target is Target.UP:
            return _spawn(gone, now)
        return replace(gone, state=State.STOPPED), ()
    if process.target is Target.DOWN or not wants_restart(process, event.returncode):
        return replace(gone, state=State.EXITED), ()
    return _back_off(gone, now)


def _back_off(process: Process, now: float) -> Decision:
    """Restart at once after a stable period, else after a growing delay; or give up."""
    failed = replace(process, failed_at=find_failures(process, now))
    if is_too_intense(failed):
        return replace(failed, state=State.FATAL, reason=describe_intensity(failed)), ()
    if was_stable(failed):
        return _spawn(replace(failed, failures=0), now)
    failed = replace(failed, failures=process.failures + 1)
    deadline = now + find_backoff_seconds(failed)
    return replace(failed, state=State.BACKOFF, deadline=deadline), ()


def _note_spawn_failed(process: Process, event: SpawnFailed, now: float) -> Decision:
    failed = replace(process, deadline=None, ended_at=now, reason=event.reason)
    if event.final and process.policy.failure_limit is not None:
        return replace(failed, state=State.FATAL), ()
    if process.policy.restart is RestartWhen.NO:
        return replace(failed, state=State.FATAL), ()
    return _back_off(failed, now)


def _note_spawn_failed_late(process: Process, event: SpawnFailed, now: float) -> Decision:
    if process.target is Target.UP:
        return _note_spawn_failed(replace(process, ending=None), event, now)
    gone = replace(process, deadline=None, ending=None, ended_at=now)
    return replace(gone, state=State.STOPPED, reason=event.reason), ()


# -- The table ----------------------------------------------------------------------------------

_AFTER_REAP: Final = (
    State.STOPPED,
    State.EXITED,
    State.STARTING,
    State.BACKOFF,
    State.FATAL,
)
_ON_ITS_WAY_OUT: Final[Mapping[type[ProcessEvent], Transition]] = {
    Start: Transition(_want_up, ()),
    Restart: Transition(_want_up, ()),
    Spawned: Transition(_note_spawned_late, ()),
    SpawnFailed: Transition(_note_spawn_failed_late, (State.STOPPED, State.BACKOFF, State.FATAL)),
    Exited: Transition(_note_exited, ()),
    Claimed: Transition(_note_claimed, ()),
    ClaimFailed: Transition(_note_claim_failed, ()),
    GroupGone: Transition(_note_group_gone, ()),
    Reaped: Transition(_settle, _AFTER_REAP),
}
_NOTHING_LIVES: Final[Mapping[type[ProcessEvent], Transition]] = {
    Start: Transition(_start, (State.STARTING,)),
    Restart: Transition(_start, (State.STARTING,)),
    Stop: Transition(_want_down, ()),
    Kill: Transition(_want_down, ()),
}

# State x event -> what happens. `to` names the states it may lead to; empty: it stays.
# The diagram in docs/architecture.md is drawn from this table.
TRANSITIONS: Final[Mapping[State, Mapping[type[ProcessEvent], Transition]]] = {
    State.STOPPED: {
        **_NOTHING_LIVES,
        Adopted: Transition(_adopt, (State.RUNNING, State.STOPPING, *_AFTER_REAP)),
    },
    State.STARTING: {
        Stop: Transition(_stop, (State.STOPPING,)),
        Restart: Transition(_restart, (State.STOPPING,)),
        Kill: Transition(_kill_asked, (State.KILLING,)),
        Spawned: Transition(_note_spawned, (State.STARTING, State.RUNNING)),
        SpawnFailed: Transition(_note_spawn_failed, (State.BACKOFF, State.FATAL)),
        Ready: Transition(_note_ready, (State.RUNNING,)),
        Exited: Transition(_note_exited, (State.STOPPING,)),
        DeadlinePassed: Transition(_kill_unready, (State.KILLING,)),
    },
    State.RUNNING: {
        Stop: Transition(_stop, (State.STOPPING,)),
        Restart: Transition(_restart, (State.STOPPING,)),
        Kill: Transition(_kill_asked, (State.KILLING,)),
        Unhealthy: Transition(_kill_unhealthy, (State.KILLING,)),
        Exited: Transition(_note_exited, (State.STOPPING,)),
    },
    State.STOPPING: {
        **_ON_ITS_WAY_OUT,
        Stop: Transition(_hurry, ()),
        Kill: Transition(_kill_asked, (State.KILLING,)),
        DeadlinePassed: Transition(_go_on, (State.STOPPING, State.KILLING)),
    },
    State.KILLING: {
        **_ON_ITS_WAY_OUT,
        Stop: Transition(_want_down, ()),
        Kill: Transition(_kill_asked, ()),
        DeadlinePassed: Transition(_go_on, ()),
    },
    State.BACKOFF: {
        Start: Transition(_start, (State.STARTING,)),
        Restart: Transition(_start, (State.STARTING,)),
        Stop: Transition(_give_up_waiting, (State.STOPPED,)),
        Kill: Transition(_give_up_waiting, (State.STOPPED,)),
        DeadlinePassed: Transition(_retry, (State.STARTING,)),
    },
    State.EXITED: _NOTHING_LIVES,
    State.FATAL: _NOTHING_LIVES,
}
