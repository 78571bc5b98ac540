from __future__ import annotations

import inspect
import math
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any

import pytest

import telemetry
from telemetry.labels import (
    ALLOWLISTS,
    LIMIT_IDS,
    parse_count,
    parse_exposure,
    parse_label,
    parse_utilization,
    sanitize_ccy,
    sanitize_strategy_id,
)
from telemetry.metrics import FAMILIES, SERIES_BYTES, build_zero_series
from telemetry.policy import ALLOWED_LABELS, FORBIDDEN_LABELS, build_policy


@pytest.mark.parametrize(
    ("given_id", "written"),
    [
        ("macd", "macd"),
        ("MA Crossover", "ma_crossover"),
        ("  Momentum\t", "momentum"),
        ("a  b", "a__b"),
        ("a\tb\nc\u00a0d", "a_b_c_d"),
        ("btc/usdt", "btcusdt"),
        ("../../etc/passwd", "....etcpasswd"),
        ("v1.2:x;y-z_0", "v1.2:x;y-z_0"),
        ("größe", "gre"),
        ('"}\\', "na"),
        ("", "na"),
        (" \n", "na"),
        ("///", "na"),
        ("a" * 97, "a" * 96),
        ("/" * 200 + "a" * 200, "a" * 96),
    ],
)
def test_strategy_id_is_written_in_its_safe_form(given_id: str, written: str) -> None:
    assert sanitize_strategy_id(given_id) == written


@pytest.mark.parametrize(
    ("given_ccy", "written"),
    [
        ("EUR", "EUR"),
        ("usd", "USD"),
        (" us-d/t ", "USDT"),
        ("1inch", "1INCH"),
        ("ABCDEFGHIJ", "ABCDEFGH"),
        ("€", "NA"),
        ("", "NA"),
    ],
)
def test_ccy_is_written_in_its_safe_form(given_ccy: str, written: str) -> None:
    assert sanitize_ccy(given_ccy) == written


@pytest.mark.parametrize("value", [None, 7, b"macd", ["macd"], object()])
def test_what_is_no_text_is_not_available(value: object) -> None:
    assert sanitize_strategy_id(value) == "na"
    assert sanitize_ccy(value) == "NA"


def test_sanitizing_twice_changes_nothing_and_leaves_only_safe_characters() -> None:
    for start in range(0, 0x3000, 32):
        text = "".join(map(chr, range(start, start + 32)))
        strategy_id, ccy = sanitize_strategy_id(text), sanitize_ccy(text)
        assert sanitize_strategy_id(strategy_id) == strategy_id
        assert sanitize_ccy(ccy) == ccy
        assert set(strategy_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.:;-")
        assert set(ccy) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def test_a_huge_text_is_not_read_to_its_end() -> None:
    class Watched(str):
        __slots__ = ()

        def read(self, *_: object) -> Any:
            raise AssertionError("read as a whole")

        __iter__ = lower = upper = strip = read

    assert sanitize_strategy_id(Watched("a" * 10_000_000)) == "a" * 96
    assert sanitize_ccy(Watched("a" * 10_000_000)) == "A" * 8


def test_the_allowlists_are_the_documented_ones() -> None:
    assert {name: " ".join(values) for name, values in ALLOWLISTS.items()} == {
        "decision": "entry_long exit_long entry_short exit_short close_long close_short",
        "signal": "long short flat",
        "check": "live_limits.check_orders runtime_risk.evaluate_pre_order",
        "result": "allow block warn disabled error",
        "limit_id": "max_order_notional max_total_exposure max_symbol_exposure "
        "max_open_positions max_daily_loss_abs max_daily_loss_pct",
        "reason": "runtime:reject runtime:halt runtime:pause runtime:unknown "
        "limit:max_order_notional limit:max_total_exposure limit:max_symbol_exposure "
        "limit:max_open_positions limit:max_daily_loss_abs limit:max_daily_loss_pct",
    }
    assert " ".join(LIMIT_IDS) == " ".join(ALLOWLISTS["limit_id"])


@pytest.mark.parametrize("name", ALLOWLISTS)
def test_only_what_an_allowlist_names_passes(name: str) -> None:
    for value in ALLOWLISTS[name]:
        assert parse_label(name, value) == value
        assert parse_label(name, value.upper()) is None
        assert parse_label(name, f"{value} ") is None
    others: tuple[object, ...] = ("", "other", None, 1, True, b"long", [], "x" * 10_000_000)
    for other in others:
        assert parse_label(name, other) is None


def test_an_enum_member_that_is_text_is_written_as_its_text() -> None:
    class Modern(StrEnum):
        LONG = "long"

    class Old(str, Enum):  # noqa: UP042 - its __str__ says "Old.LONG"
        LONG = "long"

    for member in (Modern.LONG, Old.LONG):
        written = parse_label("signal", member)
        assert written == "long"
        assert type(written) is str
        assert type(sanitize_strategy_id(member)) is str


class _Unreadable:
    def __float__(self) -> float:
        raise ValueError("no")


NO_NUMBERS = [
    None,
    "1",
    b"1",
    True,
    False,
    [1],
    1j,
    math.nan,
    10**400,
    Decimal("sNaN"),
    _Unreadable(),
]


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1, -0.5, math.inf, -math.inf, Decimal("Infinity")])
def test_an_increment_is_a_finite_number_from_zero_up(value: object) -> None:
    assert parse_count(value) is None


@pytest.mark.parametrize("value", [0, 1, 2.5, Decimal("2.5"), 2**53])
def test_an_increment_may_be_any_kind_of_number(value: Any) -> None:
    assert parse_count(value) == float(value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, math.inf, -math.inf])
def test_an_exposure_is_a_finite_number(value: object) -> None:
    assert parse_exposure(value) is None


def test_an_exposure_is_an_absolute_notional() -> None:
    assert parse_exposure(-1250.5) == 1250.5
    assert parse_exposure(Decimal("1250.5")) == 1250.5
    assert math.copysign(1, parse_exposure(-0.0) or 0.0) == 1


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_utilization_is_a_number(value: object) -> None:
    assert parse_utilization(value) is None


@pytest.mark.parametrize(
    ("value", "ratio"),
    [(0.25, 0.25), (-0.1, 0.0), (1.7, 1.0), (5, 1.0), (math.inf, 1.0), (-math.inf, 0.0)],
)
def test_a_utilization_is_clamped(value: float, ratio: float) -> None:
    assert parse_utilization(value) == ratio


def test_counters_begin_with_every_finite_combination() -> None:
    def count(strategy_id: str | None) -> dict[str, int]:
        zeros = {spec.name: len(build_zero_series(spec, strategy_id)) for spec in FAMILIES}
        return {name: number for name, number in zeros.items() if number}

    assert count(None) == {"peaktrade_risk_checks_total": 10, "peaktrade_risk_blocks_total": 10}
    assert count("macd") == {
        "peaktrade_strategy_decisions_total": 6,
        "peaktrade_strategy_signals_total": 3,
    }


def test_the_room_kept_for_a_series_holds_the_longest_one() -> None:
    # The shard format: length, key padded to 8 bytes, value, timestamp; the key is JSON.
    from prometheus_client.mmap_dict import mmap_key  # type: ignore[attr-defined, unused-ignore]

    for spec in FAMILIES:
        longest = [max(ALLOWLISTS.get(name, ("x" * 96,)), key=len) for name in spec.label_names]
        name = spec.name.removesuffix("_total")
        key = mmap_key(name, spec.name, list(spec.label_names), longest, spec.help)
        assert 4 + len(key) + 8 + 16 <= SERIES_BYTES


def test_the_session_api_cannot_express_a_label_that_is_not_allowed() -> None:
    written = {label for spec in FAMILIES for label in spec.label_names}
    assert written == ALLOWED_LABELS
    assert not written & FORBIDDEN_LABELS
    # No function takes a name for a label: each is a keyword of its own, and there is no `**`.
    for name in telemetry.__all__:
        parameters = inspect.signature(getattr(telemetry, name)).parameters.values()
        assert not [p for p in parameters if p.kind in {p.VAR_KEYWORD, p.VAR_POSITIONAL}], name
        values = {"n", "exposure", "utilization_0_1", "port"}
        assert {p.name for p in parameters} - values <= ALLOWED_LABELS, name


@pytest.mark.parametrize("label", sorted(FORBIDDEN_LABELS))
def test_no_configuration_allows_what_names_an_instrument_or_a_run(label: str) -> None:
    with pytest.raises(ValueError, match="can never be allowed"):
        build_policy(["venue", label])
