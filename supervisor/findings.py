"""All that is not as it should be, from everybody who looks for it.

Whoever finds something is a provider here, and is asked whenever somebody wants to know: the
status, the page. What ptsup has mended itself stays listed for a while.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.drift import MENDED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.drift import Finding


@dataclass(slots=True)
class Findings:
    """The one list of findings. A provider answers at once: it looks beforehand, not when asked."""

    mended: list[Finding] = field(default_factory=list)
    _providers: list[Callable[[], Iterable[Finding]]] = field(default_factory=list)

    def add(self, provider: Callable[[], Iterable[Finding]]) -> None:
        """Take in somebody who finds something."""
        self._providers.append(provider)

    def collect(self) -> list[Finding]:
        """List everything, in the order of the providers."""
        now = time.monotonic()
        self.mended = [found for found in self.mended if now - found.since < MENDED_SECONDS]
        return [*(found for provider in self._providers for found in provider()), *self.mended]
