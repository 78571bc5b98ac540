"""What a line of the events file counts for, and what ends up in a label."""

from __future__ import annotations

import json
from typing import Any

import pytest

from telemetry.ai_live.events import (
    ACTIONS,
    DECISIONS,
    REASONS,
    Defaults,
    Dropped,
    Event,
    UnreadableError,
    parse_event,
    sanitize_name,
)

DEFAULTS = Defaults(component="desk", run_id="r0")
WHOLE: dict[str, Any] = {
    "v": 1,
    "ts_utc": "2026-01-02T03:04:05.500Z",
    "run_id": "demo-1",
    "component": "execution_watch",
    "decision": "accept",
    "reason": "none",
    "action": "submit",
    "latency_ms": 85.0,
}


def parse(**changes: Any) -> Event | Dropped:
    kept = {name: value for name, value in {**WHOLE, **changes}.items() if value != "-absent-"}
    return parse_event(json.dumps(kept).encode(), DEFAULTS)


def parse_whole(**changes: Any) -> Event:
    event = parse(**changes)
    assert isinstance(event, Event)
    return event


def test_a_whole_event_is_read_with_seconds_for_milliseconds_and_utc() -> None:
    assert parse() == Event(
        component="execution_watch",
        run_id="demo-1",
        decision="accept",
        reason="none",
        action="submit",
        latency_seconds=0.085,
        timestamp=1767323045.5,
    )


@pytest.mark.parametrize("absent", ["-absent-", None])
def test_a_missing_field_has_its_default(absent: str | None) -> None:
    names = ("run_id", "component", "reason", "action", "latency_ms", "ts_utc")
    event = parse(**dict.fromkeys(names, absent))
    assert event == Event("desk", "r0", "accept", "none", "none", None, None)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("v", "-absent-", Dropped.VERSION),
        ("v", 2, Dropped.VERSION),
        ("v", True, Dropped.VERSION),
        ("v", "1", Dropped.VERSION),
        ("decision", "-absent-", Dropped.DECISION),
        ("decision", "Accept", Dropped.DECISION),
        ("decision", ["accept"], Dropped.DECISION),
        ("action", "buy AAPL", Dropped.ACTION),
        ("action", {}, Dropped.ACTION),
        ("latency_ms", -1, Dropped.LATENCY),
        ("latency_ms", "5", Dropped.LATENCY),
        ("latency_ms", True, Dropped.LATENCY),
        ("latency_ms", 10**400, Dropped.LATENCY),
        ("ts_utc", "yesterday", Dropped.TIME),
        ("ts_utc", 5, Dropped.TIME),
    ],
)
def test_a_field_that_is_outside_drops_the_event_by_its_name(
    field: str, value: Any, reason: Dropped
) -> None:
    assert parse(**{field: value}) is reason


def test_an_infinite_latency_is_no_duration() -> None:
    assert parse_event(b'{"v":1,"decision":"noop","latency_ms":1e999}', DEFAULTS) is Dropped.LATENCY


@pytest.mark.parametrize("reason", ["because of AAPL", "", 7, []])
def test_a_reason_outside_is_other(reason: object) -> None:
    assert parse_whole(reason=reason).reason == "other"


def test_every_value_of_the_finite_sets_is_itself() -> None:
    for name, values in (("decision", DECISIONS), ("reason", REASONS), ("action", ACTIONS)):
        for value in values:
            assert getattr(parse_whole(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10", 10),  # no zone: UTC, as the field's name says
        ("1970-01-01T01:00:10+01:00", 10),
        ("1970-01-01 00:00:10Z", 10),
    ],
)
def test_times_are_utc_unless_they_say_another_zone(text: str, seconds: float) -> None:
    assert parse_whole(ts_utc=text).timestamp == seconds


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"null",
        b"[1]",
        b"(too long)",
        b"\xff\xfe",
        b'{"v":NaN}',
        b"[" * 100_000,
        b'{"v":' + b"1" * 5000 + b"}",
        b'{"v":1}{"v":1}',
    ],
)
def test_what_is_no_json_object_cannot_be_read(line: bytes) -> None:
    with pytest.raises(UnreadableError):
        parse_event(line, DEFAULTS)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("run-1.a_B", "run-1.a_B"),
        ("x" * 100, "x" * 32),
        ("a/b c\n\u0131", "abc"),
        ("/", "na"),
        ("", "na"),
        (5, "na"),
    ],
)
def test_names_are_cut_to_size_and_to_safe_characters(value: object, name: str) -> None:
    assert sanitize_name(value) == name
