"""Whether one that has ended by itself is tried again, how soon, and when that is enough.

Pure: questions to its policy and to what it has been through.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from supervisor.config import RestartWhen

if TYPE_CHECKING:
    from supervisor.process import Process


def wants_restart(process: Process, returncode: int | None) -> bool:
    """Whether its policy has it started again after such an end."""
    match process.policy.restart:
        case RestartWhen.NO:
            return False
        case RestartWhen.ALWAYS:
            return True
        case RestartWhen.ON_FAILURE:
            # What cannot be known restarts nothing.
            return returncode is not None and returncode not in process.policy.success_exit_codes


def find_failures(process: Process, now: float) -> tuple[float, ...]:
    """Find when it failed within the window, this time included; none where nobody counts."""
    policy = process.policy
    if policy.failure_limit is None:
        return ()
    since = now - policy.failure_window_seconds
    return (*(at for at in process.failed_at if at > since), now)


def is_too_intense(process: Process) -> bool:
    """Whether it has failed more often within the window than its policy bears."""
    limit = process.policy.failure_limit
    return limit is not None and len(process.failed_at) > limit


def describe_intensity(process: Process) -> str:
    """Say why it is given up: how often it failed, and what was said of the last time."""
    count, policy = len(process.failed_at), process.policy
    how = f"failed {count} times within {policy.failure_window_seconds:g} s"
    if policy.restart is RestartWhen.ALWAYS and process.returncode in policy.success_exit_codes:
        how = f"ended {count} times within {policy.failure_window_seconds:g} s"
    return f"{how}: {process.reason}" if process.reason else how


def was_stable(process: Process) -> bool:
    """Whether the incarnation that has ended had been running for a stable period."""
    # One that lived long without ever being ready was not stable, only slow to be killed.
    if process.ready_at is None or process.ended_at is None:
        return False
    return process.ended_at - process.ready_at >= process.policy.stable_seconds


def find_backoff_seconds(process: Process) -> float:
    """The delay before the next try: doubled with each failure, bounded, and jittered.

    The jitter takes off up to half. It comes from the name and the incarnation instead of a
    random number, so that the core stays pure and sessions failing together still spread.
    """
    policy = process.policy
    doubled = policy.backoff_seconds * 2.0 ** min(process.failures - 1, 32)
    seed = zlib.crc32(f"{process.name}\0{process.incarnation}".encode())
    return min(doubled, policy.backoff_limit_seconds) * (1 - seed / 2**33)
