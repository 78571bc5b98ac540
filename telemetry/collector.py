"""The scrape: the shards of a directory become one page, in the format the client asks for.

It only reads. A shard that cannot be read is left out and named once in the log; it never
costs the others their place on the page.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from telemetry.shards import list_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    Encoder = Callable[["Merge"], bytes]

T = TypeVar("T")

# Shards may come and go while they are read; each attempt begins with a new listing.
_MERGE_ATTEMPTS: Final = 5
_PLAIN_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page and its Content-Type."""

    content_type: str
    body: bytes


class Collector(Protocol):
    """What metricsd asks for a page; whatever renders may stand behind it."""

    def render(self, accept_header: str) -> Page:
        """Render the present state as the Accept header of a request wishes."""
        ...


class EmptyCollector:
    """The page of a metricsd without prometheus_client: empty, so that the target stays up."""

    def render(self, accept_header: str) -> Page:  # noqa: ARG002  the interface's
        """Render the empty page, whatever the client accepts."""
        return Page(_PLAIN_TEXT, b"")


class SingleFlight(Generic[T]):
    """Lets callers share one run of a costly function, never a run that began before the call.

    Runs follow one another. Who arrives during a run waits for the next one; all who arrived
    meanwhile share it. A run that raises is shared with nobody: the next caller runs anew.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._turn = threading.Lock()
        self._begun = 0  # counts up as a run begins, inside the turn
        self._finished: tuple[int, T] | None = None

    def call(self) -> T:
        """Give the value of a run that began after this call did."""
        begun_before = self._begun
        with self._turn:
            if self._finished is not None and self._finished[0] > begun_before:
                return self._finished[1]
            self._begun += 1
            value = self._function()
            self._finished = (self._begun, value)
            return value


class Merge:
    """The metrics of one merge, encoded at most once for each content type."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)
        self._encoding = threading.Lock()
        self._pages: dict[str, Page] = {}

    def collect(self) -> Iterable[Metric]:
        """Give the metrics: with this method alone, encoders take it for a registry."""
        return self._metrics

    def render(self, encode: Encoder, content_type: str) -> Page:
        """Encode the metrics, or give the page that was encoded for an earlier caller."""
        with self._encoding:
            if content_type not in self._pages:
                self._pages[content_type] = Page(content_type, encode(self))
            return self._pages[content_type]


class StockCollector:
    """Renders what the library's own MultiProcessCollector makes of a directory's shards."""

    def __init__(
        self,
        directory: Path,
        *,
        merge: Callable[[Sequence[Path]], Iterable[Metric]],
        choose_encoder: Callable[[str], tuple[Encoder, str]],
    ) -> None:
        self._directory = directory
        self._merge = merge
        self._choose_encoder = choose_encoder
        self._flight = SingleFlight(self._merge_directory)
        self._unreadable: set[Path] = set()

    def render(self, accept_header: str) -> Page:
        """Render the merged shards; an empty page when the directory is missing or empty.

        Raises OSError when the directory cannot be listed.
        """
        try:
            encode, content_type = self._choose_encoder(accept_header)
        except TypeError:  # the library cannot compare a version that is no number
            encode, content_type = self._choose_encoder("")
        return self._flight.call().render(encode, content_type)

    def _merge_directory(self) -> Merge:
        paths = self._list_paths()
        for _ in range(_MERGE_ATTEMPTS - 1):
            try:
                return Merge(self._merge(paths))
            except Exception:  # noqa: BLE001  garbage raises whatever it likes
                # One file that vanished or is garbage fails the whole merge, and the library
                # does not say which: list anew, and try each one alone.
                paths = self._find_readable(self._list_paths())
        return Merge(self._merge(paths))

    def _list_paths(self) -> list[Path]:
        return [shard.path for shard in list_shards(self._directory) if _is_written(shard.path)]

    def _find_readable(self, paths: Sequence[Path]) -> list[Path]:
        readable = []
        unreadable = set()
        for path in paths:
            try:
                self._merge([path])
            except FileNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001  as above
                unreadable.add(path)
                if path not in self._unreadable:
                    _logger.warning("cannot read the shard %s: %r; it is left out", path, error)
            else:
                readable.append(path)
        self._unreadable = unreadable
        return readable


def open_collector(directory: Path) -> Collector:
    """Build the collector of a directory; without prometheus_client one whose page is empty.

    The library decides at its import whether its own metrics become shards: the environment
    must not name a multiprocess directory any more when this is called.
    """
    try:
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415  see above
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415
    except ImportError as error:
        _logger.warning("cannot import prometheus_client (%s): /metrics stays empty", error)
        return EmptyCollector()
    return StockCollector(
        directory, merge=MultiProcessCollector.merge, choose_encoder=choose_encoder
    )


def _is_written(path: Path) -> bool:
    # A process creates its file empty and fills it a moment later; killed in between, it leaves
    # it so. There is nothing to read yet, and nothing to complain about.
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
