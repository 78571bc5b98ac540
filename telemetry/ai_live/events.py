"""One line of the events file becomes one event, or the reason why it counts for nothing.

Pure. What ends up in a label comes from a finite set or is cut to size here, and nowhere else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = 1
DECISIONS: Final = ("accept", "reject", "noop")
REASONS: Final = (
    "none",
    "no_signal",
    "cooldown",
    "market_closed",
    "risk_limit",
    "governance_no_live",
    "invalid_order",
    "other",
)
ACTIONS: Final = ("order_intent", "order_request", "submit", "cancel", "fill", "none")

NAME_MAX_CHARACTERS: Final = 32
_NAME_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
)
# What follows is not even looked at.
_CHARACTERS_READ: Final = 4096


class Dropped(StrEnum):
    """Why an event that could be read counts for nothing: the field that is outside, mostly."""

    VERSION = "v"
    DECISION = "decision"
    ACTION = "action"
    LATENCY = "latency_ms"
    TIME = "ts_utc"
    RUNS = "too_many_runs"


class UnreadableError(ValueError):
    """A line that is no JSON object."""


@dataclass(frozen=True, slots=True)
class Event:
    """What one decision adds to the page; latency in seconds, time in seconds since the epoch.

    None is what the line does not say.
    """

    component: str
    run_id: str
    decision: str
    reason: str
    action: str
    latency_seconds: float | None
    timestamp: float | None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an event has that names no component or no run."""

    component: str = "execution_watch"
    run_id: str = "na"


def sanitize_name(value: object) -> str:
    """Make a run_id or a component of anything: at most 32 of `A-Za-z0-9._-`, else `na`."""
    if not isinstance(value, str):
        return "na"
    kept = "".join(c for c in value[:_CHARACTERS_READ] if c in _NAME_CHARACTERS)
    return kept[:NAME_MAX_CHARACTERS] or "na"


def _refuse_constant(name: str) -> NoReturn:
    raise UnreadableError(f"{name} is no JSON")


# Made once: json.loads would make one for each line that is to have no NaN.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_event(line: bytes, defaults: Defaults) -> Event | Dropped:
    """Read one line; a field that is missing or null has its default, one that is outside drops it.

    A reason outside is `other`. Raises UnreadableError for what is no JSON object.
    """
    found = _parse_object(line)
    version, decision = found.get("v"), found.get("decision")
    if version != VERSION or isinstance(version, bool):
        return Dropped.VERSION
    # By the value, for a list cannot be looked up in a set.
    if decision not in DECISIONS:
        return Dropped.DECISION
    action = found.get("action")
    if action is None:
        action = "none"
    if action not in ACTIONS:
        return Dropped.ACTION
    try:
        latency = _parse_latency(found.get("latency_ms"))
    except ValueError:
        return Dropped.LATENCY
    try:
        timestamp = _parse_time(found.get("ts_utc"))
    except ValueError:
        return Dropped.TIME
    reason = found.get("reason")
    if reason is None:
        reason = "none"
    return Event(
        component=_parse_name(found, "component", defaults.component),
        run_id=_parse_name(found, "run_id", defaults.run_id),
        decision=decision,
        reason=reason if reason in REASONS else "other",
        action=action,
        latency_seconds=latency,
        timestamp=timestamp,
    )


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        found = _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from None
    if not isinstance(found, dict):
        raise UnreadableError("it is no object")
    return found


def _parse_name(found: Mapping[str, Any], field: str, default: str) -> str:
    value = found.get(field)
    return default if value is None else sanitize_name(value)


def _parse_latency(value: object) -> float | None:
    """Read milliseconds as seconds; raises ValueError for what is no duration."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no number")  # noqa: TRY004  one kind is enough for the caller
    try:
        seconds = value / 1000
    except OverflowError:
        raise ValueError("too large") from None
    if seconds < 0 or not math.isfinite(seconds):  # 1e999 is JSON, and infinite
        raise ValueError("no duration")
    return seconds


def _parse_time(value: object) -> float | None:
    """Read an ISO time, UTC unless it says another zone; raises ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004  one kind is enough for the caller
    time = datetime.fromisoformat(value)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
