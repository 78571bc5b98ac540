"""The rules about what carries the sessions: port, metricsd, config, logs; one for each kind.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from supervisor.config import METRICSD
from supervisor.drift import (
    CONFIG_CHANGED,
    LISTENER_LOST,
    LOG_UNROTATABLE,
    MENDED_SECONDS,
    METRICSD_UNHEALTHY,
    PORT_CONFLICT,
    Finding,
)
from supervisor.drift.facts import Obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.drift.facts import Plan, Snapshot, Unrotatable

# What to do about a log that cannot be cut.
_OBSTACLE_HINTS: Final = {
    Obstacle.NO_HOLES: "put the run directory on a file system that can (ext4, xfs, btrfs, tmpfs),"
    " with --run-dir, or have the sessions write less",
    Obstacle.NO_SPACE: "make room on its file system, a copy's worth at least; ptsup tries again"
    " every few seconds",
    Obstacle.OTHER: "mend that; ptsup tries again every few seconds",
}


def find_port_conflict(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find who listens on the metrics' port at another address; a session is told elsewhere."""
    for socket in snapshot.listening:
        if socket.port == plan.port and not socket.session:
            yield Finding(
                kind=PORT_CONFLICT,
                subject=f"{socket.host}:{socket.port}",
                expected=f"only metricsd listens on port {plan.port}, at {plan.address}",
                actual=f"{socket.holder} listens there too: who asks at that address gets it",
                hint="end that process, or move ours with `ptsup stop` and `ptsup start --port`",
                since=snapshot.now,
            )


def find_listener_lost(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find that a hung metricsd took the listening socket with it; listed for a while."""
    for lost in snapshot.lost_listeners:
        if snapshot.now - lost.at < MENDED_SECONDS:
            yield Finding(
                kind=LISTENER_LOST,
                subject=f"metricsd (pid {lost.pid})",
                expected="metricsd gives the listening socket back after a crash of the supervisor",
                actual=f"it did not answer: it was killed, and {lost.address} bound anew",
                hint="a scrape at that moment failed; nothing has to be done",
                since=lost.at,
            )


def find_metricsd_unhealthy(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find that metricsd does not do its work, or did not a moment ago."""
    recent = [
        lapse
        for lapse in snapshot.lapses
        if lapse.ended is None or snapshot.now - lapse.ended < MENDED_SECONDS
    ]
    if recent:
        last = recent[-1]
        often = f", {len(recent)} times lately" if len(recent) > 1 else ""
        yield Finding(
            kind=METRICSD_UNHEALTHY,
            subject="metricsd",
            expected="metricsd runs and answers",
            actual=f"{last.reason}{often}; "
            + ("it is being started anew" if last.ended is None else "it runs again"),
            hint="nothing has to be done; if it comes again, see metricsd.log in the run"
            " directory's logs",
            since=recent[0].began,
        )


def find_config_changed(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find files of the configuration that are not what was read; and who runs by former ones."""
    for path, change in snapshot.config_changes.items():
        yield Finding(
            kind=CONFIG_CHANGED,
            subject=path,
            expected="the file as it was read",
            actual=change,
            hint="`ptsup reload` takes the changes over, or put the file back",
            since=snapshot.now,
        )
    for outdated in snapshot.outdated:
        yield Finding(
            kind=CONFIG_CHANGED,
            subject=outdated.name,
            expected="it runs as it is configured now",
            actual=f"it (pid {outdated.pid}) goes on as a former supervisor spawned it, with"
            f" another {', '.join(outdated.keys)}",
            hint=f"`ptsup restart {outdated.name}`",
            since=snapshot.now,
        )


def _find_hint(log: Unrotatable) -> str:
    if log.obstacle is not Obstacle.REMOVED:
        return _OBSTACLE_HINTS[log.obstacle]
    how = f"`ptsup restart {log.name}` gives it a new one"
    if log.name == METRICSD:
        how = "end its process (`ptsup status` shows the pid): ptsup starts it anew, with a new one"
    return f"{how}; a log need not be removed, ptsup keeps it short"


def find_log_unrotatable(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find logs that grow without bound."""
    for log in snapshot.unrotatable:
        yield Finding(
            kind=LOG_UNROTATABLE,
            subject=log.name,
            expected=f"{log.path} can be rotated",
            actual=log.reason,
            hint=_find_hint(log),
            since=log.at,
        )
