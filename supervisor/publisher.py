"""Our part of the page: written for metricsd when something has changed, and not too often."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.exposition import render_exposition
from supervisor.fleet import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.drift import Finding
    from supervisor.fleet import Fleet
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

# However much happens, it is written at most so often.
PUBLISH_SECONDS: Final = 0.25


@dataclass(slots=True)
class Publisher:
    """Writes what the fleet is and what was found; `note` says that there may be news."""

    run_dir: RunDir
    find_fleet: Callable[[], Fleet]
    find_findings: Callable[[], Iterable[Finding]]
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _published: str = ""
    _failed: bool = False

    def note(self) -> None:
        """Have it written soon."""
        self._news.set()

    async def run(self) -> None:
        """Write for ever: at once, and then not often."""
        while True:
            await self._news.wait()
            self._news.clear()
            self.publish()
            await asyncio.sleep(PUBLISH_SECONDS)
            if self._failed:
                self._news.set()

    def publish(self) -> None:
        """Write it now, if it has changed."""
        fleet = self.find_fleet()
        if fleet.phase is Phase.ENDED:  # it is cleaned away already
            return
        findings = self.find_findings()
        try:
            identity = kernel.read_identity(os.getpid()) or "unknown"
            text = render_exposition(fleet, findings, pid=os.getpid(), identity=identity)
            if text != self._published:
                self.run_dir.write_metrics(text)
        except OSError as error:
            if not self._failed:
                log.warning("cannot write our part of the page: %s", error)
            self._failed = True
        else:
            self._published, self._failed = text, False
