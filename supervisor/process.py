"""One supervised process, as data: what it is, what it is to be, and how far it has come.

Pure. What becomes of it is decided in `lifecycle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from supervisor.config import Policy, Role


class State(StrEnum):
    """The actual state."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    KILLING = "killing"
    BACKOFF = "backoff"
    EXITED = "exited"
    FATAL = "fatal"


class Target(StrEnum):
    """The wanted state."""

    UP = "up"
    DOWN = "down"


class Ending(StrEnum):
    """Why an incarnation is on its way out."""

    ASKED = "asked"
    BY_ITSELF = "by itself"
    UNHEALTHY = "unhealthy"


# Nothing lives and nothing will without being asked.
ENDED: Final = frozenset({State.STOPPED, State.EXITED, State.FATAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One supervised process. Times are monotonic seconds."""

    name: str
    policy: Policy
    role: Role = Role.SESSION
    start_after: tuple[str, ...] = ()  # whom it waits for at its start
    state: State = State.STOPPED
    target: Target = Target.DOWN
    incarnation: int = 0
    pid: int | None = None
    dead: bool = False  # the leader is a zombie that is not reaped yet
    remains: bool = False  # and its group lives on
    claimed: bool = False
    claim_failures: int = 0  # of this death
    ending: Ending | None = None
    deadline: float | None = None
    started_at: float | None = None
    ready_at: float | None = None  # since when it has been running
    ended_at: float | None = None
    failures: int = 0  # in a row, each before a stable period had passed
    failed_at: tuple[float, ...] = ()  # within the window, stable period or not
    late_starts: int = 0  # in a row: not ready in time
    returncode: int | None = None
    reason: str = ""

    @property
    def restarts(self) -> int:
        """How often it was spawned after the first time."""
        return max(0, self.incarnation - 1)

    @property
    def failed(self) -> bool:
        """Whether it has ended, and not as it should have."""
        if self.state is State.EXITED:
            return self.returncode not in self.policy.success_exit_codes
        return self.state is State.FATAL
