"""All processes at one moment: who is there, in which phase, and whose deadline is next.

Pure data and questions; what becomes of it stands in `step`. Who has something ahead is
indexed, so that no question of every turn has to look at everybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from supervisor.config import METRICSD, Role
from supervisor.process import ENDED, Process, State, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # Names, in the order in which they came to be in it.
    Index: TypeAlias = Mapping[str, None]


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
    # Kept by `put` and `drop`, never set otherwise.
    timed: Index = field(default_factory=dict)  # who has a deadline
    waiting: Index = field(default_factory=dict)  # who is to be up, and nobody has started it yet
    living: Index = field(default_factory=dict)  # the sessions that have not ended
    touched: Index = field(default_factory=dict, compare=False)  # whom the last step has changed

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
        others, retries = self.list_deadlines()
        moments = [moment for moment, _ in others]
        if retries:
            moments.append(max(min(moment for moment, _ in retries), find_retry_at(self)))
        return min(moments, default=None)

    def list_deadlines(self) -> tuple[list[tuple[float, Process]], list[tuple[float, Process]]]:
        """List who has a deadline, and when; apart who is only to be tried again then."""
        found = [
            (process.deadline, process)
            for name in self.timed
            if (process := self.find(name)) is not None and process.deadline is not None
        ]
        retries = [(moment, process) for moment, process in found if _retries(process)]
        return [(moment, process) for moment, process in found if not _retries(process)], retries

    @property
    def sessions_ended(self) -> bool:
        """Whether no session lives and none will by itself."""
        return not self.living

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
        if other.state is State.BACKOFF or (other.state in ENDED and not waits(other)):
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
    if process.reason or not waits(process):
        return process.reason
    other = find_awaited(fleet, process)
    return "" if other is None else f"waits for {other.name}"


def find_retry_at(fleet: Fleet) -> float:
    """Find when the next retry may be: the bucket holds RETRIES_AT_ONCE, and fills steadily."""
    return fleet.retry_at - (RETRIES_AT_ONCE - 1) / RETRIES_PER_SECOND


def _retries(process: Process) -> bool:
    """Whether it is one of those that may fail together: metricsd never waits for them."""
    return process.state is State.BACKOFF and process.name != METRICSD


def waits(process: Process) -> bool:
    """Whether it is to be up, and nobody has started it yet."""
    return process.state is State.STOPPED and process.target is Target.UP


# -- Another fleet ------------------------------------------------------------------------------


def put(fleet: Fleet, processes: Iterable[Process]) -> Fleet:
    """Put processes in their places, new ones last."""
    members = {process.name: process for process in processes}
    if not members:
        return fleet
    metricsd = members.pop(METRICSD, None)
    exporters = {name: p for name, p in members.items() if p.role is Role.EXPORTER}
    sessions = {name: p for name, p in members.items() if p.role is Role.SESSION}
    everybody = members if metricsd is None else {METRICSD: metricsd, **members}
    return replace(
        fleet,
        metricsd=metricsd or fleet.metricsd,
        sessions={**fleet.sessions, **sessions} if sessions else fleet.sessions,
        exporters={**fleet.exporters, **exporters} if exporters else fleet.exporters,
        timed=_index(fleet.timed, everybody, lambda p: p.deadline is not None),
        waiting=_index(fleet.waiting, members, waits),
        living=_index(fleet.living, sessions, lambda p: p.state not in ENDED),
        touched={**fleet.touched, **dict.fromkeys(everybody)},
    )


def drop(fleet: Fleet, names: Iterable[str]) -> Fleet:
    """Take members off the list."""
    names = frozenset(names)
    return replace(
        fleet,
        sessions={name: p for name, p in fleet.sessions.items() if name not in names},
        exporters={name: p for name, p in fleet.exporters.items() if name not in names},
        leaving=fleet.leaving - names,
        timed={name: None for name in fleet.timed if name not in names},
        waiting={name: None for name in fleet.waiting if name not in names},
        living={name: None for name in fleet.living if name not in names},
    )


def _index(
    index: Index, processes: Mapping[str, Process], belongs: Callable[[Process], bool]
) -> Index:
    """Give an index after these have changed: itself, as long as nobody comes or goes."""
    inside = {name: None for name, process in processes.items() if belongs(process)}
    outside = [name for name in processes if name in index and name not in inside]
    if not outside and inside.keys() <= index.keys():
        return index
    after = {**index, **inside}
    for name in outside:
        del after[name]
    return after
