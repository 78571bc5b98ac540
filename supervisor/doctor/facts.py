"""What the doctor judges by: the stack and each session as they really are.

Data only. Of an environment there are only the three variables that Mode B needs, of a command
only what may be shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Supervised(StrEnum):
    """What there is of a supervisor."""

    RUNNING = "running"
    SILENT = "silent"  # it is there, and does not answer
    DEAD = "dead"
    NONE = "none"


class Daemon(StrEnum):
    """What there is of metricsd."""

    UP = "up"
    STOPPED = "stopped"  # by a signal, as Ctrl-Z does it
    HUNG = "hung"
    NONE = "none"


class Library(StrEnum):
    """Whether a session's interpreter can import prometheus_client."""

    THERE = "there"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """Who listens on the metrics port."""

    pid: int
    command: str
    is_metricsd: bool = False
    serves_session: bool = False  # its page is a session's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """One session that lives, or that a supervisor knows. `name` is "" for one of nobody's."""

    name: str
    pid: int | None
    state: str = "running"
    reason: str = ""
    up_seconds: float = 0.0
    words: tuple[str, ...] = ()  # as it really runs, secrets masked
    cwd: str = ""
    variables: Mapping[str, str] | None = None  # None: not ours to see
    directory: str = ""  # where they lead, absolute
    same_directory: bool = True  # as metricsd reads
    python: str = ""  # its interpreter; "" for a program that is none
    library: Library = Library.UNKNOWN
    shards: int = 0  # in metricsd's directory
    elsewhere: tuple[str, ...] = ()  # other directories it writes shards into
    unlinked: bool = False  # it writes into shards that were removed
    ports: tuple[int, ...] = ()  # it listens on
    counted: bool = False  # any counter of it is above 0
    unmoved: bool = False  # no value moved between two looks
    rejected: tuple[str, ...] = ()  # what it says of updates it dropped
    # What its supervisor says of it: how it was to run, and what drift expects in vain.
    planned: bool = False  # it stands in the configuration file
    mode: str = "B"
    ready_port: int | None = None
    stale: str = ""
    silent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment."""

    supervised: Supervised
    supervisor_pid: int | None
    supervisor_stopped: bool = False
    run_dir: str
    host: str  # metricsd listens on
    port: int
    directory: str
    directory_problem: str = ""
    holder: PortHolder | None = None
    daemon: Daemon = Daemon.NONE
    daemon_pid: int | None = None
    outside: str = ""  # an address of this machine that is not the loopback
    outside_answers: bool = True
    sessions: tuple[SessionFacts, ...] = ()
    violations: tuple[tuple[str, str, int], ...] = ()  # metric, label, series
    options: tuple[str, ...] = field(default_factory=tuple)  # to be given to each command
