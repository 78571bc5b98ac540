"""What the operator asked for: the frozen words that all other rooms speak of it.

Data only. A session spec is one JSON document, so that it can be handed over a socket as it is;
`config.documents` writes it and reads it back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from telemetry.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SESSION_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
METRICSD: Final = "metricsd"
SUPERVISOR: Final = "supervisor"
# Names of our own log and state files, whatever the case a file system folds.
RESERVED_NAMES: Final = frozenset({METRICSD, SUPERVISOR})
DEFAULT_HOST: Final = "0.0.0.0"  # noqa: S104 - Prometheus comes from a container
DEFAULT_RUN_DIR: Final = ".ops_local/ptsup"
RUN_DIR_VARIABLE: Final = "PTSUP_RUN_DIR"
DEFAULT_FILE: Final = "ptsup.toml"
DEFAULT_AUDIT_INTERVAL_SECONDS: Final = 15.0
DEFAULT_MISSING_SHARD_SECONDS: Final = 600.0
DEFAULT_STALE_VALUES_SECONDS: Final = 3600.0
DEFAULT_READY_SECONDS: Final = 60.0


class RestartWhen(StrEnum):
    """When a session that ended by itself is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Role(StrEnum):
    """What a supervised program is for."""

    SESSION = "session"
    EXPORTER = "exporter"  # a companion with a page of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one process is kept: the numbers `lifecycle.decide` goes by."""

    restart: RestartWhen = RestartWhen.NO
    stop_signal: str = "TERM"
    stop_timeout_seconds: float = 75.0
    stable_seconds: float = 10.0
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 30.0
    # So many ends within the window are one too many for the next try; None: it never gives up.
    failure_limit: int | None = 5
    failure_window_seconds: float = 60.0
    success_exit_codes: frozenset[int] = frozenset({0})
    # None: up as soon as it is spawned. Doubled with each late start, for a slow machine.
    start_timeout_seconds: float | None = None
    start_timeout_limit_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """How long a log may be before it is rotated, and how many rotated copies are kept."""

    max_bytes: int = 16 << 20  # 0: it is never rotated
    backups: int = 5


METRICSD_POLICY: Final = Policy(
    restart=RestartWhen.ALWAYS,
    stop_timeout_seconds=5.0,
    # Who served for a second and is killed is to be back at once: scrapes wait.
    stable_seconds=1.0,
    backoff_seconds=0.1,
    backoff_limit_seconds=1.0,
    failure_limit=None,
    start_timeout_seconds=3.0,
)
EXPORTER_POLICY: Final = Policy(
    restart=RestartWhen.ALWAYS,
    stop_timeout_seconds=10.0,
    backoff_limit_seconds=10.0,
    failure_limit=None,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What has to answer before a process counts as up: a port on loopback, or a page."""

    port: int | None = None
    http: str | None = None
    timeout_seconds: float = DEFAULT_READY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """One session, or one exporter, as the operator wants it: no shell, an absolute cwd."""

    name: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = Policy()
    role: Role = Role.SESSION
    mode: Mode = Mode.B
    port: int | None = None  # its own: of an exporter, or of a session in mode A
    path: str = "/metrics"  # an exporter's page
    start_after: tuple[str, ...] = ()
    ready: Readiness | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)  # None: unlimited
    planned: bool = False  # it stands in the file
    log: LogLimits = LogLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything `ptsup start` needs to know. Directories are absolute."""

    host: str
    port: int
    multiproc_dir: Path
    given: frozenset[str] = frozenset()  # the keys, as in a file, that a flag or the file gave
    flagged: frozenset[str] = frozenset()  # which of host, port and multiproc_dir a flag gave
    file: Path | None = None  # what a reload reads
    sessions: tuple[SessionSpec, ...] = ()
    denied: tuple[str, ...] = ()  # what NO-LIVE refuses besides its own list
    log: LogLimits = LogLimits()  # of our own logs
    # Of each file that was read: tells its content from another.
    file_marks: Mapping[Path, int] = field(default_factory=dict)
    exporters: tuple[SessionSpec, ...] = ()
    allow_labels: tuple[str, ...] = ()
    audit_interval_seconds: float = DEFAULT_AUDIT_INTERVAL_SECONDS
    missing_shard_seconds: float = DEFAULT_MISSING_SHARD_SECONDS
    stale_values_seconds: float = DEFAULT_STALE_VALUES_SECONDS

    def deny(self, names: Iterable[str]) -> Config:
        """Refuse these, too: the list only grows."""
        return replace(self, denied=tuple(dict.fromkeys((*self.denied, *names))))

    @property
    def metricsd_options(self) -> tuple[str, ...]:
        """What metricsd is told of it by its command; another of these takes another metricsd."""
        return (
            # To be known of within the interval: a look waits for the next question about health,
            # and what it saw is in the answer to the one after it, which is read at the third.
            *("--look-seconds", str(max(0, int(self.audit_interval_seconds) - 3))),
            *(word for label in self.allow_labels for word in ("--allow-label", label)),
        )

    @property
    def members(self) -> tuple[SessionSpec, ...]:
        """Exporters and sessions, in the order they are started."""
        return (*self.exporters, *self.sessions)

    @property
    def planned(self) -> frozenset[str]:
        """The names that stand in the file."""
        return frozenset(spec.name for spec in self.members if spec.planned)
