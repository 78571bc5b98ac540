"""What happened when: written down line by line, so that it is there whatever happens next."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Until a client has noticed that its server died; this machine has other work too.
NOTICE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Death:
    """The death of a metricsd. Times are monotonic seconds."""

    pid: int
    how: str
    struck_at: float
    lived_at: float  # it had not been killed yet
    dead_at: float


@dataclass(frozen=True, slots=True)
class Request:
    """One request to metricsd and what became of it. Times are monotonic seconds."""

    client: str
    number: int
    fresh: bool  # the first on its connection
    began: float
    ended: float
    outcome: str  # the status, or what went wrong

    @property
    def good(self) -> bool:
        return self.outcome == "200"


def find_excuse(request: Request, deaths: list[Death]) -> Death | None:
    """Find the death that a request was in flight at, and failed by.

    Nothing excuses a refused connection, an answer other than 200, or one that never came.
    """
    if request.outcome.isdigit() or "refused" in request.outcome.lower():
        return None
    for death in deaths:
        in_flight = request.began <= death.dead_at and death.lived_at <= request.ended
        if in_flight and request.ended <= death.dead_at + NOTICE_SECONDS:
            return death
    return None


class EventLog:
    """The log of a run; `began` is its second 0."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()
        self.wall_began = time.time()
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()

    def note(self, event: str, pid: int | None, name: str, more: str = "") -> float:
        """Write an event down and give its time."""
        now = time.monotonic()
        line = f"{self.at(now)} {event:<14} {pid or '-':>7} {name} {more}".rstrip()
        with self._lock:
            self._file.write(f"{line}\n")
        return now

    def at(self, moment: float) -> str:
        """Render a monotonic time as seconds of the run."""
        return f"{moment - self.began:9.3f}"

    def find_around(self, moment: float, seconds: float = 2.0) -> list[str]:
        """Find the lines about a moment."""
        at = moment - self.began
        return [
            line
            for line in self.path.read_text().splitlines()
            if at - seconds <= float(line.split(None, 1)[0]) <= at + 0.2
        ]

    def close(self) -> None:
        self._file.close()
