"""What a dead supervisor left: who still lives, what to say of it, and how to end it.

Works from the records alone. A recorded pid counts only when its identity (start and
boot) is the recorded one, any other process only when it was spawned with a recorded nonce;
nobody else is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor import kernel
from supervisor.adoption import Former
from supervisor.client import build_silence, find_absence, lock_or_find
from supervisor.config import (
    EXPORTER_POLICY,
    METRICSD,
    METRICSD_POLICY,
    SESSION_NAME,
    SUPERVISOR,
    Policy,
    Role,
)
from supervisor.config.keys import read_settings
from supervisor.dead_status import build_dead_status
from supervisor.errors import SupervisorDeadError
from supervisor.told import Told, tell
from telemetry.clearing import clear_and_say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from supervisor.rundir import RunDir

_LOOK_SECONDS: Final = 0.1
_KILL_SECONDS: Final = 10.0
# How long a child may take from its fork to its exec, after which its nonce can be seen, before
# it is looked for by the lock it holds; and how long each is looked for until that is given up.
_NONCE_SECONDS: Final = 1.0
_FIND_SECONDS: Final = 5.0


def find_living(states: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Find which recorded processes still live: their pids by name.

    Those too whose pid nobody came to write down.
    """
    recorded = _find_recorded(states)
    intents = {
        state["nonce"]: name
        for name, state in states.items()
        if name not in recorded
        and state.get("nonce")
        and state.get("pid") is None
        and not Former(record={**state, "name": name}).at_rest
    }
    if not intents:
        return recorded
    from supervisor.observe import find_spawned  # noqa: PLC0415 - only a crash needs it

    own = _find_session(states)
    found = {
        intents[nonce]: _find_leader(pids, own) for nonce, pids in find_spawned(intents).items()
    }
    return {**recorded, **{name: pid for name, pid in found.items() if pid is not None}}


def _find_recorded(states: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return {
        name: pid
        for name, state in states.items()
        if isinstance(pid := state.get("pid"), int)
        and kernel.read_identity(pid) == state.get("identity") is not None
    }


def find_former(run_dir: RunDir, states: Mapping[str, Mapping[str, Any]]) -> tuple[Former, ...]:
    """Find every process of a dead supervisor; the run directory's lock is ours.

    One whose pid nobody came to write down is found by its nonce, or by the lock it inherited.
    Raises SupervisorDeadError when it is there and cannot be found, or nobody can tell.
    """
    session = _find_session(states)
    former = [
        Former(record={**state, "name": name})
        for name, state in states.items()
        if name != SUPERVISOR and SESSION_NAME.fullmatch(name)
    ]
    intents = [each for each in former if not each.at_rest and "pid" not in each.record]
    try:
        leaders = _find_unrecorded(intents, run_dir, session)
        return tuple(_identify_former(each, leaders.get(each.name)) for each in former)
    except OSError as error:  # no descriptor is to be had, say
        raise SupervisorDeadError(
            f"cannot see who of its last spawns lives: {error.strerror}",
            "nothing was changed: try again",
        ) from None


def _find_session(states: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Find the session that the dead supervisor was in; it may have led it."""
    own = states.get(SUPERVISOR, {})
    session: int | None = own.get("session", own.get("pid"))
    return session


def _identify_former(former: Former, leader: int | None) -> Former:
    """Say whether it lives; `leader` is who was found where no pid is recorded."""
    if former.at_rest:
        return former
    recorded = former.record.get("pid")
    pid = leader if recorded is None else recorded
    identity = None
    if isinstance(pid, int):
        found = kernel.read_identity(pid)
        same = recorded is None or found == former.record.get("identity")
        identity = found if same else None
    return replace(former, pid=pid, identity=identity)


def _find_unrecorded(
    intents: Iterable[Former], run_dir: RunDir, session: int | None
) -> dict[str, int | None]:
    """Find the leaders that these intents led to; None for one that led to nobody who lives.

    They are looked for together: each look at all processes takes its time, and so does to wait
    for who hides.
    """
    from supervisor.observe import find_holders, find_spawned  # noqa: PLC0415 - after a crash

    found: dict[str, int | None] = {}
    locks = {each.name: kernel.SpawnLock(run_dir.states, each.nonce) for each in intents}
    began = time.monotonic()
    while locks and (waited := time.monotonic() - began) < _FIND_SECONDS:
        held = {name for name, lock in locks.items() if lock.is_held()}
        # After that: one that is just becoming its program may close what it has inherited.
        spawned = find_spawned({lock.nonce for lock in locks.values()} - {""})
        for name, lock in tuple(locks.items()):
            pids = spawned.get(lock.nonce, set())
            if not pids and waited > _NONCE_SECONDS and (place := lock.find()):
                pids = find_holders(*place)
            if pids or name not in held:
                found[name] = _find_leader(pids, session)
                del locks[name]
        if locks:
            time.sleep(_LOOK_SECONDS / 10)
    for name, lock in locks.items():
        raise SupervisorDeadError(
            f"cannot adopt {name}: a process holds its lock, and cannot be found",
            f"end what has {lock} open",
        )
    return found


def _find_leader(pids: Iterable[int], supervisors: int | None) -> int | None:
    """Find who leads all these, which are what one spawn led to; the leader may be dead.

    Never one of another origin, whatever session they are in: a child that was just forked is
    for a moment in its supervisor's session, whose leader may be dead too, or have no pid here
    (0): then it lives outside this pid namespace.
    """
    living = {pid for pid in pids if kernel.read_identity(pid) is not None}
    sessions: dict[int, int] = {}
    for pid in living:
        with contextlib.suppress(ProcessLookupError):
            sessions[pid] = os.getsid(pid)
    leading = [pid for pid, session in sessions.items() if pid == session]
    if leading:
        return min(leading, key=_find_age)
    others = {session for session in sessions.values() if session not in {0, supervisors}}
    dead = [pid for pid in others if kernel.read_identity(pid) is None]
    return min(dead or sessions, default=None)


def _find_age(pid: int) -> tuple[int, str]:
    """Order processes by their start, the eldest first."""
    start = (kernel.read_identity(pid) or "").partition("@")[0]
    return int(start) if start.isdigit() else 0, start


def find_survivors(states: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    """Find whoever lives of each recorded process: pids and identities by name.

    Its leader and its group, but also a worker whose leader is dead, one that left the group,
    and a child whose pid nobody came to write down.
    """
    from supervisor.observe import find_spawned  # noqa: PLC0415 - only a crash needs it

    children = {name: state for name, state in states.items() if name != SUPERVISOR}
    names = {state["nonce"]: name for name, state in children.items() if state.get("nonce")}
    leaders = _find_recorded(children)
    members = kernel.find_members(set(leaders.values()))
    pids: dict[str, set[int]] = {name: {pid, *members[pid]} for name, pid in leaders.items()}
    for nonce, spawned in find_spawned(names).items():
        pids.setdefault(names[nonce], set()).update(spawned)
    found = {name: _identify(living) for name, living in pids.items()}
    return {name: living for name, living in found.items() if living}


def _identify(pids: Iterable[int]) -> dict[int, str]:
    identities = {pid: kernel.read_identity(pid) for pid in pids}
    return {pid: identity for pid, identity in identities.items() if identity is not None}


def read_dead_status(run_dir: RunDir) -> dict[str, Any] | None:
    """Build the status document of a dead supervisor; None when none left any state."""
    from supervisor.observe import count_shards  # noqa: PLC0415 - only a crash needs it

    states = run_dir.read_states()
    if not states:
        return None
    directory = Path(states.get(SUPERVISOR, {}).get("multiproc_dir", os.devnull))
    return build_dead_status(
        states,
        find_living(states),
        run_dir=str(run_dir.path),
        shards=count_shards(directory),
        log=lambda name: str(run_dir.log(name)),
    )


def stop_orphans(
    run_dir: RunDir, timeout_seconds: float | None, *, keep_shards: bool
) -> Iterator[str]:
    """Do the dead supervisor's stop: sessions together, then metricsd, then clean up.

    Yields a line for a person at each step. Raises NothingRunsError when there is nothing.
    """
    if not lock_or_find(run_dir):
        raise build_silence(run_dir.read_own().get("pid"))
    states = run_dir.read_states()
    if not states:
        run_dir.unlock()
        raise find_absence(run_dir)
    pid = states.get(SUPERVISOR, {}).get("pid")
    yield f"the supervisor (pid {pid}) is dead; ending what it left"
    for former in find_former(run_dir, states):
        if former.lives:  # whose pid nobody came to write down is found by its lock, once
            found = {"pid": former.pid, "identity": former.identity}
            states[former.name] = {**states[former.name], **found}
    last = {
        name: state
        for name, state in states.items()
        if name == METRICSD or state.get("role") == Role.EXPORTER
    }
    sessions = {name: state for name, state in states.items() if name not in last}
    limits = {name: _find_stop_timeout_seconds(name, state) for name, state in states.items()}
    if timeout_seconds is not None:
        limits |= dict.fromkeys(sessions, timeout_seconds)
    yield from _stop_survivors(sessions, limits)
    yield from _stop_survivors(last, limits)
    directory = states.get(SUPERVISOR, {}).get("multiproc_dir")
    if isinstance(directory, str) and not keep_shards:
        yield from _clear(Path(directory))
    run_dir.clean()
    run_dir.unlock()
    yield "stopped"


def _clear(directory: Path) -> list[str]:
    lines: list[str] = []
    try:
        clear_and_say(directory, lines.append)
    except (OSError, ValueError) as error:
        lines.append(f"cannot clear {directory}: {error}")
    return lines


def _stop_survivors(
    states: Mapping[str, Mapping[str, Any]], limits_seconds: Mapping[str, float]
) -> Iterator[str]:
    """TERM whoever lives of these, KILL each whose time is over, until nobody is left."""
    left = find_survivors(states)
    told = {
        name: Told(_find_stop_signal(state), dict(left.get(name, {})))
        for name, state in states.items()
    }
    for name, pids in left.items():
        tell(pids, told[name].number)
    began = time.monotonic()
    while left:
        waited = time.monotonic() - began
        if waited >= max(limits_seconds[name] for name in left) + _KILL_SECONDS:
            break
        for name, pids in left.items():
            if waited >= limits_seconds[name]:
                tell(pids, signal.SIGKILL)
            elif states[name].get("pid") not in pids:  # it may have forked while it was dying
                tell(told[name].find_due(pids, time.monotonic()), told[name].number)
        time.sleep(_LOOK_SECONDS)
        before, left = left, find_survivors(states)
        for name in before.keys() - left.keys():
            yield f"{name} (pid {', '.join(map(str, sorted(before[name])))}) ended"
    for name, pids in left.items():
        yield f"{name} (pid {', '.join(map(str, sorted(pids)))}) does not die of KILL"


def _find_stop_timeout_seconds(name: str, state: Mapping[str, Any]) -> float:
    """Find how long this one may take to end, as it was configured."""
    usual = EXPORTER_POLICY if state.get("role") == Role.EXPORTER else Policy()
    usual = METRICSD_POLICY if name == METRICSD else usual
    settings = read_settings(state.get("settings", {}))
    return float(settings.get("stop_timeout_seconds", usual.stop_timeout_seconds))


def _find_stop_signal(state: Mapping[str, Any]) -> int:
    """Find the signal that asks this one to end, as it was configured."""
    settings = read_settings(state.get("settings", {}))
    return signal.Signals[f"SIG{settings.get('stop_signal', 'TERM')}"]
