"""What drift is found in: the plan, and a snapshot of what really is.

Data only. Times are monotonic seconds. Of an environment there are only the variables that
the plan names, of a command only what may be shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Device and inode: which file or directory it is, whatever it is called.
FileId = tuple[int, int]


# -- The plan ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """How one session was to run. `shares` is false for one with a metrics server of its own.

    `ports` are those that the configuration waits for it to listen on.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    shares: bool = True
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How things were meant to be, and for how long each may look otherwise."""

    directory: str
    directory_id: FileId | None
    address: str  # of the metrics, as it is written
    port: int
    sessions: Mapping[str, SessionPlan] = field(default_factory=dict)
    missing_shard_seconds: float = 600.0
    stale_values_seconds: float = 3600.0


# -- The snapshot -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """The shard directory: which one it is, or why there is none to be seen."""

    id: FileId | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Stray:
    """What lies among the shards and is none: its name, and what it is in a word."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Defective:
    """A shard that cannot be used, or not whole; `session` is "" when nobody of ours wrote it."""

    shard: str
    reason: str
    session: str


@dataclass(frozen=True, slots=True)
class Foreigner:
    """A living process, none of ours, that has shards here."""

    pid: int
    command: str
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Orphan:
    """A dead process whose shards were claimed, though nobody had told us of its death."""

    pid: int
    shards: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class FailedClaim:
    """Shards of the dead that could not be moved, and why."""

    subject: str
    reason: str
    at: float
    again_seconds: float


@dataclass(frozen=True, slots=True)
class Unlinked:
    """Shards that a living process has open and that no scrape can find any more."""

    pid: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """The planned variables as one process of a session really has them; None where unset."""

    pid: int
    leads: bool
    variables: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """A living session. `silent_seconds` is None once it has shown a shard, or never could."""

    name: str
    pid: int
    silent_seconds: float | None = None
    unmoved_seconds: float | None = None
    unlinked: tuple[Unlinked, ...] = ()
    environments: tuple[Environment, ...] = ()


@dataclass(frozen=True, slots=True)
class Listening:
    """A TCP socket that somebody listens on; `session` is "" for one of nobody of ours."""

    host: str
    port: int
    holder: str  # pid and command
    session: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """Series that were left off the page: whose, and for which label.

    `lives` says whether who wrote them still does; `seen_at` is when that was first told.
    """

    metric: str
    label: str
    series: int
    writer: str
    shards: tuple[str, ...]
    lives: bool
    seen_at: float


@dataclass(frozen=True, slots=True)
class Lapse:
    """A time in which metricsd did not do its work; `ended` is None while it goes on."""

    reason: str
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class LostListener:
    """A listening socket that went down with the metricsd that held it."""

    address: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Outdated:
    """One that was adopted and runs as it was spawned, though something else is wanted by now."""

    name: str
    pid: int
    keys: tuple[str, ...]  # that differ


class Obstacle(Enum):
    """What keeps a log from being cut, as far as it asks for something else to be done."""

    NO_HOLES = auto()
    NO_SPACE = auto()
    REMOVED = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Unrotatable:
    """A log that grows without bound: whose, where, and why it cannot be cut."""

    name: str
    path: str
    obstacle: Obstacle
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What really is, as far as it was looked at by `now`."""

    now: float
    directory: DirectoryFacts
    strays: tuple[Stray, ...] = ()
    defective: tuple[Defective, ...] = ()
    foreigners: tuple[Foreigner, ...] = ()
    sessions: tuple[SessionFacts, ...] = ()
    listening: tuple[Listening, ...] = ()  # the metrics socket itself left out
    # How files differ from what was read from them, by path.
    config_changes: Mapping[str, str] = field(default_factory=dict)
    # What others noted, and not the look itself.
    orphans: tuple[Orphan, ...] = ()
    failed_claims: tuple[FailedClaim, ...] = ()
    violations: tuple[Violation, ...] = ()
    lapses: tuple[Lapse, ...] = ()
    lost_listeners: tuple[LostListener, ...] = ()
    unrotatable: tuple[Unrotatable, ...] = ()
    outdated: tuple[Outdated, ...] = ()
