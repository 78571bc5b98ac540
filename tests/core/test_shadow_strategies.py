"""The example session's pure half: prices in; signals, orders, verdicts and increments out."""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from collections import Counter
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLE = Path(__file__).parents[2] / "examples" / "shadow_session.py"
DAY_ONE = date(2024, 1, 1)


def load_example() -> ModuleType:
    """Import the example from its file; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("shadow_session", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


shadow = load_example()
STRATEGIES = sorted(shadow.STRATEGIES)
# Two cycles of different lengths: every strategy turns several times, and no two days are equal.
WAVES = [
    100 + 20 * math.sin(day / 15) + 8 * math.sin(day / 4) + 2 * math.sin(day) for day in range(400)
]


def make_tick(usd: float, signal: str = "flat", volatility: float = 0.02) -> Any:
    return shadow.Tick(DAY_ONE, usd, shadow.Signal(signal), volatility)


def make_book(*tranches: tuple[float, float], realised: float = 0.0) -> Any:
    return shadow.Book(tuple(shadow.Tranche(*tranche) for tranche in tranches), realised)


def make_entry(quantity: float = 100.0, usd: float = 100.0) -> Any:
    return shadow.Order("entry_long", quantity, usd, is_exit=False)


NO_LOSS = shadow.Loss(0.0, 0.0)


def test_the_example_needs_the_standard_library_and_telemetry_alone_and_no_network() -> None:
    nodes = list(ast.walk(ast.parse(EXAMPLE.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    imported = {name.partition(".")[0] for name in names}
    assert imported <= sys.stdlib_module_names | {"telemetry"}
    assert imported.isdisjoint({"asyncio", "ftplib", "http", "smtplib", "socket", "ssl", "urllib"})


# --- Prices


@pytest.mark.parametrize(
    "text",
    [
        "date,price\n2024-01-02,70.5\n2024-01-03,71\n",
        "2024-01-02,70.5\n2024-01-03,71\n",
        "DATE,DCOILWTICO\n2024-01-01,.\n2024-01-02,70.5\n2024-01-03,71\n",
        "observation_date,DCOILWTICO\n2024-01-02,70.5\n2024-01-03,71\n2024-01-04,\n",
        "Open,Date,High,Close\n1,2024-01-02 00:00:00,9,70.5\n2,2024-01-03 00:00:00,9,71\n",
        "\n Date , Price \n\n2024-01-02, 70.5 \n2024-01-03,71\n\n",
    ],
    ids=["header", "no header", "fred", "fred now", "ohlc", "blanks"],
)
def test_a_price_file_is_read_with_and_without_a_header(text: str) -> None:
    assert shadow.parse_prices(text.splitlines()) == [
        shadow.Price(date(2024, 1, 2), 70.5),
        shadow.Price(date(2024, 1, 3), 71.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,price\n2024-01-02,x\n", "line 2: 'x' is not a price"),
        ("date,price\n2024-01-02,-36.98\n", "line 2: '-36.98' is not a price above zero"),
        ("date,price\n2024-01-02,nan\n", "line 2: 'nan' is not a price"),
        ("date,price\n2024-01-02,1e300\n", "line 2: '1e300' is not a price"),
        ("date,price\n\n2024-01-02\n", "line 3: 1 column"),
        ("date,price\n2024-01-02,1\n02.01.2024,1\n", "line 3: '02.01.2024' is not a date"),
        ("2024-01-02,1\n2024-01-02,2\n", "line 2: 2024-01-02 does not come after 2024-01-02"),
        ("time,price\n2024-01-02,1\n", "line 1: no date and price columns in 'time,price'"),
        ("date,high,low\n", "line 1: no date and price columns"),
        ('date,price\n2024-01-02,"' + "9" * 200_000 + '"\n', "line 2: field larger"),
    ],
)
def test_a_bad_price_file_is_refused_naming_the_line(text: str, message: str) -> None:
    with pytest.raises(shadow.PricesError) as caught:
        shadow.parse_prices(text.splitlines(keepends=True))
    assert str(caught.value).startswith(message)


# --- Strategies


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_signal_knows_nothing_of_later_prices(name: str) -> None:
    strategy = shadow.STRATEGIES[name]
    signals = shadow.build_signals(strategy, WAVES)
    for end in range(0, len(WAVES), 37):
        assert shadow.build_signals(strategy, WAVES[:end]) == signals[:end]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_flat_until_it_is_warm(name: str) -> None:
    strategy = shadow.STRATEGIES[name]
    accelerating = [100 * 1.001 ** (day * day / 10) for day in range(60)]
    signals = shadow.build_signals(strategy, accelerating)
    assert signals == ["flat"] * (strategy.warm_up_days - 1) + ["long"] * (
        61 - strategy.warm_up_days
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_short_when_the_fall_quickens_and_flat_when_nothing_moves(name: str) -> None:
    strategy = shadow.STRATEGIES[name]
    quickening = [100 * 0.999 ** (day * day / 10) for day in range(60)]
    assert shadow.build_signals(strategy, quickening)[-1] == "short"
    assert shadow.build_signals(strategy, [100.0] * 60)[-1] == "flat"


def test_the_strategies_see_the_same_market_differently() -> None:
    seen = [tuple(shadow.build_signals(s, WAVES)) for s in shadow.STRATEGIES.values()]
    assert len(set(seen)) == len(STRATEGIES)
    assert all(set(signals) == {"long", "short", "flat"} for signals in seen)


@pytest.mark.parametrize(
    ("strength", "signal"),
    [(0.021, "long"), (0.02, "flat"), (0.0, "flat"), (-0.02, "flat"), (-0.021, "short")],
)
def test_only_a_strength_beyond_the_band_is_a_signal(strength: float, signal: str) -> None:
    assert shadow.decide_signal(strength, 0.02) == signal


def test_averages_and_volatility_are_what_they_are_by_hand() -> None:
    assert shadow.build_ema([1.0, 2.0, 4.0], 3) == [1.0, 1.5, 2.75]
    assert shadow.build_sma([1.0, 2.0, 4.0, 6.0], 2) == [1.0, 1.5, 3.0, 5.0]
    assert shadow.build_momentum_strength([100.0, *[105.0] * 19, 110.0])[-1] == pytest.approx(0.1)
    # 21 days, 20 of them with a return of 10 %: a window that holds nothing else.
    assert shadow.build_volatility([1.1**day for day in range(21)])[-1] == pytest.approx(0.1)


# --- The book


def test_the_book_averages_its_tranches_and_marks_them_to_market() -> None:
    book = make_book((100, 50.0), (300, 54.0))
    assert book.average_price == 53.0
    assert book.unrealised(55.0) == pytest.approx(800)
    assert book.gross_exposure(55.0) == 22_000
    assert book.equity(55.0) == pytest.approx(100_800)


def test_a_short_book_earns_when_the_price_falls_and_an_exit_realises_it() -> None:
    book = make_book((-100, 50.0), realised=10.0)
    leaving = shadow.find_exit(book, make_tick(45.0), halted=False)
    assert (leaving.decision, leaving.quantity) == ("exit_short", 100)
    assert book.gross_exposure(45.0) == 4_500
    assert book.fill(leaving) == make_book(realised=510.0)


@pytest.mark.parametrize(
    ("quantity", "signal", "halted", "expected"),
    [
        (100, "flat", False, ["exit_long"]),
        (-100, "flat", False, ["exit_short"]),
        (100, "short", False, ["close_long", "entry_short"]),
        (-100, "long", False, ["close_short", "entry_long"]),
        (100, "long", False, []),
        (100, "long", True, ["close_long", "entry_long"]),
        (100, "flat", True, ["exit_long"]),
        (0, "flat", False, []),
        (0, "long", False, ["entry_long"]),
        (0, "short", True, ["entry_short"]),
    ],
)
def test_orders_bring_the_book_to_the_side_of_the_signal(
    quantity: float, signal: str, halted: bool, expected: list[str]
) -> None:
    book = make_book((quantity, 50.0)) if quantity else make_book()
    orders = shadow.find_orders(book, make_tick(50.0, signal), halted=halted)
    assert [order.decision for order in orders] == expected


@pytest.mark.parametrize(
    ("quantity", "signal", "usd", "adds"),
    [
        (100, "long", 50.9, False),
        (100, "long", 51.1, True),
        (-100, "short", 49.1, False),
        (-100, "short", 48.9, True),
        (-100, "short", 51.1, False),
    ],
)
def test_a_tranche_is_added_after_a_move_in_favour_of_the_last(
    quantity: float, signal: str, usd: float, adds: bool
) -> None:
    book = make_book((quantity, 10.0), (quantity, 50.0))
    assert bool(shadow.find_entry(book, make_tick(usd, signal))) is adds


def test_an_order_is_sized_by_the_usual_move_of_a_day() -> None:
    for volatility, notional in ((0.01, 40_000), (0.04, 10_000), (0.0, 0)):
        order = shadow.find_entry(make_book(), make_tick(50.0, "short", volatility))
        assert order.quantity == pytest.approx(-notional / 50)
    ruined = make_book(realised=-200_000.0)
    assert shadow.find_entry(ruined, make_tick(50.0, "long")).quantity == 0


# --- Risk


@pytest.mark.parametrize(
    ("used", "result", "reason"),
    [
        ({"max_order_notional": 0.79}, "allow", None),
        ({"max_order_notional": 0.8}, "warn", None),
        ({"max_open_positions": 1.0}, "warn", None),
        ({"max_open_positions": 1.01}, "block", "limit:max_open_positions"),
        (
            {"max_order_notional": 1.1, "max_total_exposure": 1.2},
            "block",
            "limit:max_total_exposure",
        ),
    ],
)
def test_the_limit_most_exceeded_decides(
    used: dict[str, float], result: str, reason: str | None
) -> None:
    utilization = dict.fromkeys(shadow.LIMITS, 0.0) | used
    assert shadow.decide_limits(make_entry(), utilization) == shadow.Verdict(result, reason)


def test_utilization_is_what_is_used_of_each_limit() -> None:
    loss = shadow.build_loss(200_000.0, 199_000.0)
    book = make_book((300, 100.0), (200, 100.0))
    assert shadow.build_utilization(book, 75.0, loss, 9_000.0) == pytest.approx(
        {
            "max_order_notional": 9_000 / 36_000,
            "max_total_exposure": 37_500 / 75_000,
            "max_open_positions": 2 / 3,
            "max_daily_loss_abs": 1_000 / 1_500,
            "max_daily_loss_pct": 0.5 / 1.5,
        }
    )


@pytest.mark.parametrize(
    ("before", "after", "halts"),
    [
        (100_000, 98_501, False),
        (100_000, 98_499, True),
        (50_000, 49_249, True),  # 1.5 % of half the money is half the amount
        (200_000, 198_499, True),  # 1.5 % of twice the money is more than the amount
        (100_000, 200_000, False),
        (0, 0, True),
    ],
)
def test_a_day_halts_beyond_the_amount_or_the_percentage(
    before: float, after: float, halts: bool
) -> None:
    assert shadow.build_loss(before, after).breaks_limit is halts


def test_the_runtime_check_halts_pauses_and_rejects_and_lets_every_exit_pass() -> None:
    breach = shadow.Loss(2_000.0, 2.0)
    assert shadow.decide_runtime(make_entry(), NO_LOSS, 0) == shadow.ALLOW
    assert shadow.decide_runtime(make_entry(), breach, 3).reason == "runtime:halt"
    assert shadow.decide_runtime(make_entry(), NO_LOSS, 1).reason == "runtime:pause"
    assert shadow.decide_runtime(make_entry(0.0), NO_LOSS, 0).reason == "runtime:reject"
    leaving = shadow.Order("close_long", -100.0, 50.0, is_exit=True)
    assert shadow.decide_runtime(leaving, breach, 3) == shadow.ALLOW
    assert shadow.decide_limits(leaving, dict.fromkeys(shadow.LIMITS, 9.0)) == shadow.ALLOW


# --- Days


def trade(ticks: list[Any]) -> list[tuple[Any, Any]]:
    account, days = shadow.Account(), []
    for tick in ticks:
        account, day = shadow.decide_day(account, tick, "waves")
        days.append((account, day))
    return days


def test_a_loss_halts_the_day_closes_the_position_and_pauses_the_next_three() -> None:
    # Gains first: 1.5 % of more than the start is more than the amount, which so is the reason.
    days = trade([make_tick(usd, "long") for usd in (100, 101, 90, 90, 90, 90, 90)])[1:]
    reasons = [
        [count.labels["reason"] for count in day.counts if count.metric == shadow.BLOCKS_TOTAL]
        for _, day in days
    ]
    assert reasons == [
        [],
        ["runtime:halt", "limit:max_daily_loss_abs"],
        *[["runtime:pause"]] * 3,
        [],
    ]
    assert days[1][1].utilization["max_daily_loss_abs"] == pytest.approx(2_200 / 1_500)
    # The loss is the day's own: the next one, at the same price, begins at nothing.
    assert days[2][1].utilization["max_daily_loss_abs"] == 0
    assert [account.book.side for account, _ in days] == ["long", *["flat"] * 4, "long"]
    assert days[-1][0].equity == pytest.approx(98_000)


def test_a_blocked_entry_leaves_the_book_alone_and_is_asked_for_again() -> None:
    days = trade([make_tick(100, "long", 0.005), make_tick(100, "long", 0.01)])
    assert all(account.book == shadow.Book() for account, _ in days)
    assert [day.gross_exposure for _, day in days] == [0, 0]
    # Twice the usual limit is asked for on the first day; the gauge tells what was asked for.
    assert [day.utilization["max_order_notional"] for _, day in days] == pytest.approx(
        [80 / 36, 40 / 36]
    )
    assert [day.fills for _, day in days] == [0, 0]


@pytest.mark.parametrize(
    ("volatility", "reason", "filled"),
    [(0.04, "limit:max_open_positions", 3), (0.015, "limit:max_total_exposure", 2)],
)
def test_an_order_is_checked_against_the_book_it_would_make(
    volatility: float, reason: str, filled: int
) -> None:
    # Up 2.5 % a day: one tranche more is asked for on each.
    days = trade([make_tick(100 * 1.025**day, "long", volatility) for day in range(filled + 1)])
    counts = [count.labels.get("reason") for count in days[-1][1].counts]
    assert [day.fills for _, day in days] == [1] * filled + [0]
    assert [reason for reason in counts if reason] == [reason]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_signal_change_decision_check_and_block_is_counted_once(name: str) -> None:
    prices = [shadow.Price(DAY_ONE + timedelta(day), usd) for day, usd in enumerate(WAVES)]
    ticks = shadow.build_ticks(shadow.STRATEGIES[name], prices)
    days = trade(ticks)
    counts = [count for _, day in days for count in day.counts]
    totals = Counter(count.metric for count in counts)
    blocked = sum(count.labels.get("result") == "block" for count in counts)

    changes = sum(a.signal != b.signal for a, b in pairwise([make_tick(1.0), *ticks]))
    assert totals[shadow.SIGNALS_TOTAL] == changes > 0
    assert totals[shadow.CHECKS_TOTAL] == 2 * totals[shadow.DECISIONS_TOTAL] > 0
    assert totals[shadow.BLOCKS_TOTAL] == blocked > 0
    assert 0 < sum(day.fills for _, day in days) < totals[shadow.DECISIONS_TOTAL]


def test_equal_input_counts_equally() -> None:
    ticks = [make_tick(usd, "long" if usd > 100 else "short") for usd in WAVES]
    assert trade(ticks) == trade(ticks)
