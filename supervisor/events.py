"""What can happen to a process or the fleet, and what they may ask of the shell.

Data only, no logic. An event about a child carries its incarnation (one spawn of it), so
that news of a former one can never be taken for news of the present one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from supervisor.config import SessionSpec

# -- Wishes: somebody wants a process in another state ---------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Have it up."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Have it down: TERM, then KILL after the timeout (None: the policy's own)."""

    name: str
    timeout_seconds: float | None = None
    reason: str = ""  # why, when nobody asked for it


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop it with target up."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Have it down at once."""

    name: str


# -- News of a child ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    """The child runs."""

    name: str
    incarnation: int
    pid: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """The child of a supervisor that died is ours now; without a pid it ended, nobody saw how."""

    name: str
    incarnation: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The child could not be started; `final` when trying again cannot help."""

    name: str
    incarnation: int
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The child does its work: metricsd answered a scrape."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """The child lives but does not do its work."""

    name: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The leader is dead, a zombie if it is our child; `remains` when its group lives on.

    `returncode` is as in subprocess (-9 for SIGKILL), None when it cannot be known.
    """

    name: str
    incarnation: int
    returncode: int | None
    remains: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """The shards of the zombie leader are claimed, or it has none."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ClaimFailed:
    """The shards of the zombie leader could not be claimed this time."""

    name: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class GroupGone:
    """Nobody but the zombie leader is left of the group."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """The leader's pid is given back to the kernel."""

    name: str
    incarnation: int
    returncode: int | None


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The process's one deadline has come."""

    name: str


ChildEvent: TypeAlias = (
    Spawned
    | Adopted
    | SpawnFailed
    | Ready
    | Unhealthy
    | Exited
    | Claimed
    | ClaimFailed
    | GroupGone
    | Reaped
)
ProcessEvent: TypeAlias = Start | Stop | Restart | Kill | DeadlinePassed | ChildEvent


# -- News for the fleet as a whole ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Add:
    """New sessions and exporters, to be up as soon as metricsd answers."""

    specs: tuple[SessionSpec, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """Other settings for sessions and exporters that are there; nothing is restarted by it."""

    specs: tuple[SessionSpec, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Have these down and, once they are, no longer listed."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopAll:
    """Stop everything in order (None: each session's own timeout)."""

    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class KillAll:
    """Stop everything at once, still in order."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The last totals were scraped, or need not be."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of several children at once: as if each of it had been told in turn."""

    events: tuple[ProcessEvent, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; whose deadline has come is told so."""


FleetEvent: TypeAlias = Add | Update | Remove | StopAll | KillAll | Drained | Batch | Tick
Event: TypeAlias = ProcessEvent | FleetEvent


# -- Actions: what the core asks of the shell -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the child; answered by Spawned or SpawnFailed."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class SignalGroup:
    """Send a signal to the whole process group."""

    name: str
    incarnation: int
    signal: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim the leader's shards while the zombie pins its pid; answered by Claimed, ClaimFailed."""

    name: str
    incarnation: int
    pid: int


@dataclass(frozen=True, slots=True)
class Reap:
    """Give the zombie's pid back; answered by Reaped before anything else is decided."""

    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Wait until the last totals were scraped; answered by Drained."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing runs any more: give back the port, and leave nothing behind."""


@dataclass(frozen=True, slots=True)
class Forget:
    """One that was to be removed is down: nothing is to tell of it any more."""

    name: str


Action: TypeAlias = Spawn | SignalGroup | Claim | Reap | Drain | Finish | Forget
