"""What a session may write: allowlists, sanitizers, and the numbers that make sense.

Pure. A value outside is answered with None, never with an exception: the caller drops and
counts it. No symbol or instrument ever has a place here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, SupportsFloat

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT_IDS: Final = (
    "max_order_notional",
    "max_total_exposure",
    "max_symbol_exposure",
    "max_open_positions",
    "max_daily_loss_abs",
    "max_daily_loss_pct",
)
# The labels with finitely many values, by label name.
ALLOWLISTS: Final[Mapping[str, tuple[str, ...]]] = {
    "decision": (
        "entry_long",
        "exit_long",
        "entry_short",
        "exit_short",
        "close_long",
        "close_short",
    ),
    "signal": ("long", "short", "flat"),
    "check": ("live_limits.check_orders", "runtime_risk.evaluate_pre_order"),
    "result": ("allow", "block", "warn", "disabled", "error"),
    "limit_id": LIMIT_IDS,
    "reason": (
        "runtime:reject",
        "runtime:halt",
        "runtime:pause",
        "runtime:unknown",
        *(f"limit:{limit_id}" for limit_id in LIMIT_IDS),
    ),
}

STRATEGY_ID_MAX_CHARACTERS: Final = 96
CCY_MAX_CHARACTERS: Final = 8
_STRATEGY_ID_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.:;-")
_CCY_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
# A label is not a document: what follows is not even looked at, however much it is.
_MAX_CHARACTERS_READ: Final = 4096


def sanitize_strategy_id(value: object) -> str:
    """Make a strategy_id of anything: lower case, inner blanks to `_`, unsafe characters left out.

    At most 96 characters; `na` when nothing is left, or when it was no text at all.
    """
    if not isinstance(value, str):
        return "na"
    text = value[:_MAX_CHARACTERS_READ].strip().lower()
    underscored = ("_" if character.isspace() else character for character in text)
    safe = "".join(character for character in underscored if character in _STRATEGY_ID_CHARACTERS)
    return safe[:STRATEGY_ID_MAX_CHARACTERS] or "na"


def sanitize_ccy(value: object) -> str:
    """Make a currency code of anything: upper-case letters and digits, at most 8; else `NA`."""
    if not isinstance(value, str):
        return "NA"
    text = value[:_MAX_CHARACTERS_READ].upper()
    safe = "".join(character for character in text if character in _CCY_CHARACTERS)
    return safe[:CCY_MAX_CHARACTERS] or "NA"


def parse_label(name: str, value: object) -> str | None:
    """Read the value of the label `name`, exactly as it will be written; None when outside."""
    if name == "strategy_id":
        return sanitize_strategy_id(value)
    if name == "ccy":
        return sanitize_ccy(value)
    if not isinstance(value, str):
        return None
    # Of a str subclass (an enum member) the text itself, not what its own __str__ makes of it.
    text = str.__str__(value)
    return text if text in ALLOWLISTS[name] else None


def parse_count(value: object) -> float | None:
    """Read an increment: finite and not negative, else None."""
    number = _parse_number(value)
    if number is None or not math.isfinite(number) or number < 0:
        return None
    return number


def parse_exposure(value: object) -> float | None:
    """Read an exposure in currency units: its absolute value; None when not finite."""
    number = _parse_number(value)
    if number is None or not math.isfinite(number):
        return None
    return abs(number)


def parse_utilization(value: object) -> float | None:
    """Read a utilization ratio, clamped to 0..1 (infinities too); None when not a number."""
    number = _parse_number(value)
    if number is None or math.isnan(number):
        return None
    return min(max(0.0, number), 1.0)


def _parse_number(value: object) -> float | None:
    """Read a number of any kind (decimal's and numpy's too); a bool or a text is a mistake."""
    if type(value) is float:
        return value  # as nearly always; to ask a protocol takes microseconds
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (ArithmeticError, TypeError, ValueError):
        return None
