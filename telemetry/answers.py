"""What a server asks for its page, what metricsd asks of a collector, and the empty page.

It imports nothing that can be missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

_PLAIN_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page and its Content-Type."""

    content_type: str
    body: bytes


class Answers(Protocol):
    """What the server asks for a page; whatever renders may stand behind it."""

    def render(self, accept_header: str) -> Page:
        """Render the present state as the Accept header of a request wishes."""
        ...

    def describe(self) -> dict[str, Any]:
        """Give the collector's part of the health document, as of the last scrape."""
        ...


class Collector(Answers, Protocol):
    """What metricsd asks of the collector of its directory."""

    def fold(self) -> bool:
        """Fold what can be folded; tell whether there was anything."""
        ...

    def look(self, age_seconds: float) -> None:
        """Have `describe` speak of what was so at most that long ago."""
        ...


class EmptyCollector:
    """The page of a metricsd without prometheus_client: empty, so that the target stays up."""

    def render(self, accept_header: str) -> Page:  # noqa: ARG002  the interface's
        """Render the empty page, whatever the client accepts."""
        return Page(_PLAIN_TEXT, b"")

    def describe(self) -> dict[str, Any]:
        """Say nothing."""
        return {}

    def fold(self) -> bool:
        """Fold nothing."""
        return False

    def look(self, age_seconds: float) -> None:
        """Look at nothing."""
