"""What a dead supervisor left: who still lives, what to say of it, and how to end it.

Works from the state files alone. A recorded pid counts only when its identity (start and
boot) is the recorded one; nobody else is ever signalled.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor import kernel
from supervisor.client import build_silence, find_absence
from supervisor.config import METRICSD, METRICSD_POLICY, SUPERVISOR, Policy
from supervisor.status import build_dead_status
from telemetry.clearing import clear_and_say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.rundir import RunDir

_LOOK_SECONDS: Final = 0.05


def find_living(states: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Find which recorded processes still live: their pids by name."""
    return {
        name: pid
        for name, state in states.items()
        if isinstance(pid := state.get("pid"), int)
        and kernel.read_identity(pid) == state.get("identity") is not None
    }


def read_dead_status(run_dir: RunDir) -> dict[str, Any] | None:
    """Build the status document of a dead supervisor; None when none left any state."""
    from supervisor.observe import count_shards  # noqa: PLC0415 - only a crash needs it

    states = run_dir.read_states()
    if not states:
        return None
    directory = Path(states.get(SUPERVISOR, {}).get("multiproc_dir", os.devnull))
    return build_dead_status(
        states,
        frozenset(find_living(states)),
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
    if not run_dir.lock():
        raise build_silence(run_dir.read_states().get(SUPERVISOR, {}).get("pid"))
    states = run_dir.read_states()
    if not states:
        run_dir.unlock()
        raise find_absence(run_dir)
    pid = states.get(SUPERVISOR, {}).get("pid")
    yield f"the supervisor (pid {pid}) is dead; ending what it left"
    living = find_living(states)
    metricsd = living.pop(METRICSD, None)
    session_timeout = Policy().stop_timeout_seconds if timeout_seconds is None else timeout_seconds
    yield from _stop_groups(living, session_timeout)
    if metricsd is not None:
        yield from _stop_groups({METRICSD: metricsd}, METRICSD_POLICY.stop_timeout_seconds)
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


def _stop_groups(leaders: Mapping[str, int], timeout_seconds: float) -> Iterator[str]:
    """TERM these groups, wait, KILL: whoever of them is left, until nobody is."""
    groups = {pid: name for name, pid in leaders.items()}
    for number, limit_seconds in ((signal.SIGTERM, timeout_seconds), (signal.SIGKILL, 10.0)):
        _signal_groups(groups, number)
        deadline = time.monotonic() + limit_seconds
        while groups and time.monotonic() < deadline:
            members = kernel.find_members(groups)
            for group in [group for group in groups if not members.get(group)]:
                yield f"{groups.pop(group)} (pid {group}) ended"
            if number is signal.SIGKILL:
                _signal_groups(groups, number)  # it may have forked while it was dying
            time.sleep(_LOOK_SECONDS)
    for group, name in groups.items():
        yield f"{name} (pid {group}) does not die of KILL"


def _signal_groups(groups: Mapping[int, str], number: int) -> None:
    # Member by member: with its leader gone, a group's number may be another's by now.
    for group, pids in kernel.find_members(groups).items():
        for pid in pids:
            kernel.signal_member(pid, group, number)
