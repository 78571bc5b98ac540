"""The families of the AI live exporter, and what each line of the file does to them.

A registry of its own: nothing else is on the page, and nothing of it goes into shards. However
many runs the file names, the page has room for a fixed number of them.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from telemetry.ai_live.events import (
    ACTIONS,
    DECISIONS,
    REASONS,
    Defaults,
    Dropped,
    Event,
    UnreadableError,
    parse_event,
)
from telemetry.answers import Page

# How many pairs of component and run_id are counted; each costs some fifty series.
MAX_RUNS: Final = 64
LATENCY_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
# The one value of the label `source`: what was read from the events file.
SOURCE: Final = "jsonl"

_RUN: Final = ("component", "run_id")


class AiMetrics:
    """Counts lines, and renders what they have come to."""

    def __init__(self, defaults: Defaults) -> None:
        # When a series was created says nothing here: the file may be older.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._defaults = defaults
        self._registry = CollectorRegistry()
        self._decisions = self._make(
            Counter,
            "peaktrade_ai_decisions_total",
            "Total number of AI decisions made.",
            ("decision", "reason", *_RUN),
        )
        self._actions = self._make(
            Counter,
            "peaktrade_ai_actions_total",
            "Total number of AI actions executed.",
            ("action", *_RUN),
        )
        self._latency = self._make(
            Histogram,
            "peaktrade_ai_decision_latency_seconds",
            "Latency of AI decisions in seconds.",
            _RUN,
            buckets=LATENCY_BUCKETS,
        )
        self._last = self._make(
            Gauge,
            "peaktrade_ai_last_decision_timestamp_seconds",
            "Unix time of the last AI decision, as its event says.",
            _RUN,
        )
        self._heartbeat = self._make(
            Gauge,
            "peaktrade_ai_live_heartbeat",
            "1 while the exporter follows the events of this run.",
            _RUN,
        )
        unreadable = self._make(
            Counter,
            "peaktrade_ai_events_parse_errors_total",
            "Lines of the events file that are no JSON object.",
            ("source",),
        )
        dropped = self._make(
            Counter,
            "peaktrade_ai_events_dropped_total",
            "Events that count for nothing, by the reason.",
            ("source", "reason"),
        )
        # Each series is there, with 0, before its first event: else increase() would miss that.
        self._unreadable = unreadable.labels(SOURCE)
        self._dropped = {reason: dropped.labels(SOURCE, reason.value) for reason in Dropped}
        self._runs: dict[tuple[str, str], _Run] = {}
        self._find_run(defaults.component, defaults.run_id)

    def count(self, line: bytes) -> None:
        """Count one line; a blank one is nothing."""
        if not line.strip():
            return
        try:
            event = parse_event(line, self._defaults)
        except UnreadableError:
            self._unreadable.inc()
            return
        if isinstance(event, Dropped):
            self._dropped[event].inc()
            return
        run = self._find_run(event.component, event.run_id)
        if run is None:
            self._dropped[Dropped.RUNS].inc()
        else:
            run.count(event)

    def render(self, accept_header: str) -> Page:
        """Render the page as the Accept header of a request wishes."""
        encode, content_type = choose_encoder(accept_header)
        return Page(content_type, encode(self._registry))

    def describe(self) -> dict[str, Any]:
        """Give the health document's part: how many runs there are."""
        return {"runs": len(self._runs)}

    def _make(self, kind: Any, name: str, text: str, labels: tuple[str, ...], **more: Any) -> Any:
        return kind(name, text, labels, registry=self._registry, **more)

    def _find_run(self, component: str, run_id: str) -> _Run | None:
        """Find or begin a run; None when there are too many."""
        key = component, run_id
        if key not in self._runs:
            if len(self._runs) >= MAX_RUNS:
                return None
            self._heartbeat.labels(*key).set(1)
            self._runs[key] = _Run(
                {
                    (decision, reason): self._decisions.labels(decision, reason, *key)
                    for decision in DECISIONS
                    for reason in REASONS
                },
                {action: self._actions.labels(action, *key) for action in ACTIONS},
                self._latency.labels(*key),
                self._last.labels(*key),
            )
        return self._runs[key]


class _Run:
    """The series of one component and run."""

    def __init__(
        self,
        decisions: dict[tuple[str, str], Counter],
        actions: dict[str, Counter],
        latency: Histogram,
        last: Gauge,
    ) -> None:
        self._decisions = decisions
        self._actions = actions
        self._latency = latency
        self._last = last

    def count(self, event: Event) -> None:
        self._decisions[event.decision, event.reason].inc()
        self._actions[event.action].inc()
        if event.latency_seconds is not None:
            self._latency.observe(event.latency_seconds)
        if event.timestamp is not None:
            self._last.set(event.timestamp)
