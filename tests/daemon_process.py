"""An exporter of ours as a real process, from the line that says that it started."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from waiting import wait_for

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Daemon:
    """A running exporter; its stderr goes to a file. `STARTED` finds its host and port there."""

    STARTED: ClassVar[re.Pattern[str]]

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def port(self) -> int:
        match = self.STARTED.search(self.log)
        assert match is not None, self.log
        return int(match[2])

    def end(self, number: int = SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


Kind = TypeVar("Kind", bound=Daemon)


@contextmanager
def run_daemon(
    kind: type[Kind], command: Sequence[str | Path], log_path: Path, **popen: Any
) -> Iterator[Kind]:
    """Run one until the block ends, from the moment it says that it started, or has ended."""
    with log_path.open("wb") as log, subprocess.Popen(command, stderr=log, **popen) as process:
        daemon = kind(process, log_path)
        try:
            wait_for(
                lambda: kind.STARTED.search(daemon.log) or process.poll() is not None,
                what="it to start",
            )
            yield daemon
        finally:
            process.kill()
