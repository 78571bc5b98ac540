"""A paper-trading session: real prices, one strategy, risk limits, and the metrics they make.

It replays a price file day by day and trades on paper only: no order leaves this process, no
network is touched, nothing here can trade live. What happens on a day is a pure function of the
prices and the options, so equal runs count equally; only the lower half of this file (from
`Stop` on) sees clocks, signals and files.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import select
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final, NoReturn

try:
    import telemetry
    from telemetry.labels import sanitize_strategy_id
except ImportError as error:
    sys.stderr.write(
        f"shadow_session: cannot import telemetry: {error}\n"
        f"hint: install ptsup into this interpreter, {sys.executable}\n"
    )
    raise SystemExit(1) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import FrameType

DEFAULT_PRICES: Final = Path(__file__).with_name("data") / "wti_daily.csv"
DEFAULT_SPEED: Final = 50.0

CURRENCY: Final = "USD"
START_EQUITY: Final = 100_000.0
# An order is sized so that a usual day moves it by this part of the equity: calm markets ask
# for more than the limits give, wild ones for less.
RISK_PER_ORDER: Final = 0.004
VOLATILITY_WINDOW_DAYS: Final = 20
# A position that has moved this far in favour since its last tranche asks for one more.
ADD_STEP: Final = 0.02
# Days without a new position after a day that broke a daily loss limit.
PAUSE_DAYS: Final = 3

ORDER_NOTIONAL: Final = "max_order_notional"
TOTAL_EXPOSURE: Final = "max_total_exposure"
OPEN_POSITIONS: Final = "max_open_positions"
DAILY_LOSS_ABS: Final = "max_daily_loss_abs"
DAILY_LOSS_PCT: Final = "max_daily_loss_pct"
# One instrument is traded, so a limit per symbol would repeat the total exposure.
LIMITS: Final[Mapping[str, float]] = {
    ORDER_NOTIONAL: 36_000.0,  # USD
    TOTAL_EXPOSURE: 75_000.0,  # USD
    OPEN_POSITIONS: 3.0,  # tranches
    DAILY_LOSS_ABS: 1_500.0,  # USD, against the previous close
    DAILY_LOSS_PCT: 1.5,  # percent of the equity at the previous close
}
WARN_AT: Final = 0.8

SIGNALS_TOTAL: Final = "peaktrade_strategy_signals_total"
DECISIONS_TOTAL: Final = "peaktrade_strategy_decisions_total"
CHECKS_TOTAL: Final = "peaktrade_risk_checks_total"
BLOCKS_TOTAL: Final = "peaktrade_risk_blocks_total"

PRICES_FORMAT: Final = (
    "one row a day, oldest first: date as YYYY-MM-DD and price in USD, above zero"
    " (empty or '.': no price that day); a header may name the columns date and price"
)
PRICE_COLUMNS: Final = ("price", "close", "adj close", "value")
# Beyond these a ratio of two prices could leave what a float holds.
LOWEST_PRICE: Final = 1e-9
HIGHEST_PRICE: Final = 1e12


class SessionError(Exception):
    """The session cannot start; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


# --- Prices ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """What one unit cost on one day."""

    day: date
    usd: float


class PricesError(Exception):
    """A price file that cannot be replayed; the message names the line."""


def parse_prices(lines: Iterable[str]) -> list[Price]:
    """Read a CSV, with or without a header, into prices, oldest first.

    Empty lines and days without a price (empty, or the `.` of FRED's files) are left out.
    Raises PricesError, naming the line, for anything else that is not a day and its price.
    """
    reader = csv.reader(lines)
    try:
        return build_prices(reader)
    except (PricesError, csv.Error) as error:
        raise PricesError(f"line {reader.line_num}: {error}") from None


def build_prices(rows: Iterable[Sequence[str]]) -> list[Price]:
    """Give the prices of these rows. Raises PricesError at the first bad one."""
    prices: list[Price] = []
    columns: tuple[int, int] | None = None
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if columns is None:
            columns = find_columns(cells)
            if parse_day(cells[columns[0]]) is None:
                continue
        price = parse_price(cells, *columns)
        if price is None:
            continue
        if prices and price.day <= prices[-1].day:
            raise PricesError(f"{price.day} does not come after {prices[-1].day}")
        prices.append(price)
    return prices


def find_columns(cells: Sequence[str]) -> tuple[int, int]:
    """Find the date and the price column from the first row, which may or may not be a header.

    Without a header they are the first two. In a header the price is called price, close,
    adj close or value, or is the one column beside the date (as in FRED's files).
    """
    if parse_day(cells[0]):
        return 0, 1
    names = [cell.lower() for cell in cells]
    dates = [index for index, name in enumerate(names) if name == "date" or name.endswith("_date")]
    others = [index for index in range(len(names)) if index not in dates]
    known = [names.index(name) for name in PRICE_COLUMNS if name in names]
    if len(dates) == 1 and (known or len(others) == 1):
        return dates[0], (known or others)[0]
    raise PricesError(f"no date and price columns in {','.join(cells)[:60]!r}")


def parse_price(cells: Sequence[str], date_column: int, price_column: int) -> Price | None:
    """Read one row; None is a day without a price. Raises PricesError."""
    if len(cells) <= max(date_column, price_column):
        raise PricesError(f"{len(cells)} column(s), no price")
    day, text = parse_day(cells[date_column]), cells[price_column]
    if day is None:
        raise PricesError(f"{cells[date_column][:40]!r} is not a date")
    if text in {"", "."}:
        return None
    usd = parse_number(text)
    if not LOWEST_PRICE <= usd <= HIGHEST_PRICE:
        raise PricesError(f"{text[:40]!r} is not a price above zero")
    return Price(day, usd)


def parse_day(text: str) -> date | None:
    """Read an ISO date, with or without a time of day; None when it is none."""
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        return None


def parse_number(text: str) -> float:
    """Read a number; NaN, which passes no comparison, when it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- Strategies -----------------------------------------------------------------------------


class Signal(StrEnum):
    """The side a strategy wants to be on."""

    LONG = "long"
    SHORT = "short"
    FLAT = "flat"

    @property
    def sign(self) -> int:
        """Give +1 for long, -1 for short, 0 for flat."""
        return {Signal.LONG: 1, Signal.SHORT: -1, Signal.FLAT: 0}[self]


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a strategy sees a market.

    `build_strength` gives one number a price, above zero in a rising market; beyond `band` it is
    a signal. `warm_up_days` prices must have been seen before the first one.
    """

    build_strength: Callable[[Sequence[float]], list[float]]
    band: float
    warm_up_days: int


def build_ema(values: Sequence[float], span: int) -> list[float]:
    """Average exponentially, starting at the first value."""
    weight = 2 / (span + 1)
    return list(accumulate(values, lambda mean, value: mean + weight * (value - mean)))


def build_sma(values: Sequence[float], window: int) -> list[float]:
    """Average the last `window` values (fewer at the start)."""
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def build_macd_strength(prices: Sequence[float]) -> list[float]:
    """Give the MACD histogram (12, 26, 9) as a part of the price."""
    fast, slow = build_ema(prices, 12), build_ema(prices, 26)
    macd = [f - s for f, s in zip(fast, slow, strict=True)]
    return [
        (value - mean) / price
        for value, mean, price in zip(macd, build_ema(macd, 9), prices, strict=True)
    ]


def build_ma_crossover_strength(prices: Sequence[float]) -> list[float]:
    """Give how far the 10-day average is above the 30-day one, as a part of it."""
    fast, slow = build_sma(prices, 10), build_sma(prices, 30)
    return [f / s - 1 for f, s in zip(fast, slow, strict=True)]


def build_momentum_strength(prices: Sequence[float]) -> list[float]:
    """Give the return over the last 20 days (over fewer at the start)."""
    return [price / prices[max(0, index - 20)] - 1 for index, price in enumerate(prices)]


STRATEGIES: Final[Mapping[str, Strategy]] = {
    "macd": Strategy(build_macd_strength, band=0.001, warm_up_days=35),
    "ma_crossover": Strategy(build_ma_crossover_strength, band=0.005, warm_up_days=30),
    "momentum": Strategy(build_momentum_strength, band=0.02, warm_up_days=21),
}


def build_signals(strategy: Strategy, prices: Sequence[float]) -> list[Signal]:
    """Give the signal of each day, made from that day's price and the earlier ones alone."""
    return [
        decide_signal(strength, strategy.band) if day >= strategy.warm_up_days else Signal.FLAT
        for day, strength in enumerate(strategy.build_strength(prices), start=1)
    ]


def decide_signal(strength: float, band: float) -> Signal:
    """Turn a strength into a side; within the band there is none."""
    if abs(strength) <= band:
        return Signal.FLAT
    return Signal.LONG if strength > 0 else Signal.SHORT


def build_volatility(prices: Sequence[float]) -> list[float]:
    """Give each day's usual daily move: the root mean square of the last 20 daily returns.

    A part of the price, 0.0 on the first day.
    """
    squares = [0.0]
    for before, after in pairwise(prices):
        move = after / before - 1
        squares.append(move * move)
    return [math.sqrt(mean) for mean in build_sma(squares, VOLATILITY_WINDOW_DAYS)]


@dataclass(frozen=True, slots=True)
class Tick:
    """All that one day brings: its price, the strategy's signal and the usual daily move."""

    day: date
    usd: float
    signal: Signal
    volatility: float


def build_ticks(strategy: Strategy, prices: Sequence[Price]) -> list[Tick]:
    """Give the days to replay."""
    amounts = [price.usd for price in prices]
    return [
        Tick(price.day, price.usd, wanted, volatility)
        for price, wanted, volatility in zip(
            prices, build_signals(strategy, amounts), build_volatility(amounts), strict=True
        )
    ]


# --- The paper book -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tranche:
    """One filled entry: units (negative when short) at a price in USD."""

    quantity: float
    usd: float


@dataclass(frozen=True, slots=True)
class Order:
    """A paper order at the day's price; an exit closes the whole position."""

    decision: str
    quantity: float
    usd: float
    is_exit: bool

    @property
    def notional(self) -> float:
        """The order's size in USD, whatever its side."""
        return abs(self.quantity) * self.usd


@dataclass(frozen=True, slots=True)
class Book:
    """The open tranches, all on one side, and what the closed ones earned in USD."""

    tranches: tuple[Tranche, ...] = ()
    realised: float = 0.0

    @property
    def quantity(self) -> float:
        """Units held, negative when short."""
        return math.fsum(tranche.quantity for tranche in self.tranches)

    @property
    def average_price(self) -> float:
        """What the open position cost a unit, in USD; 0.0 when there is none."""
        cost = math.fsum(tranche.quantity * tranche.usd for tranche in self.tranches)
        return cost / self.quantity if self.tranches else 0.0

    @property
    def side(self) -> Signal:
        """The side the book is on."""
        if not self.tranches:
            return Signal.FLAT
        return Signal.LONG if self.quantity > 0 else Signal.SHORT

    def unrealised(self, usd: float) -> float:
        """What closing at this price would earn, in USD."""
        return self.quantity * (usd - self.average_price)

    def equity(self, usd: float) -> float:
        """What the paper account is worth at this price, in USD."""
        return START_EQUITY + self.realised + self.unrealised(usd)

    def gross_exposure(self, usd: float) -> float:
        """What the position is worth at this price, in USD, whatever its side."""
        return abs(self.quantity) * usd

    def fill(self, order: Order) -> Book:
        """Give the book after this order."""
        if order.is_exit:
            return Book(realised=self.realised + self.unrealised(order.usd))
        return replace(self, tranches=(*self.tranches, Tranche(order.quantity, order.usd)))


def find_orders(book: Book, tick: Tick, *, halted: bool) -> list[Order]:
    """Find what the strategy asks for today: at most one exit, then at most one entry."""
    leaving = find_exit(book, tick, halted=halted)
    entering = find_entry(book.fill(leaving) if leaving else book, tick)
    return [order for order in (leaving, entering) if order]


def find_exit(book: Book, tick: Tick, *, halted: bool) -> Order | None:
    """Find the order that takes the book off a side the strategy left, or that risk ended.

    `exit_*` is the strategy going flat; `close_*` makes way for the other side or for a halt.
    """
    if book.side is Signal.FLAT or (book.side is tick.signal and not halted):
        return None
    word = "exit" if tick.signal is Signal.FLAT else "close"
    return Order(f"{word}_{book.side}", -book.quantity, tick.usd, is_exit=True)


def find_entry(book: Book, tick: Tick) -> Order | None:
    """Find the order for the first tranche, or for one more after a move in favour.

    Its quantity is 0.0 when there is nothing to size it by: no equity, or no move in 20 days.
    """
    side = tick.signal
    if side is Signal.FLAT:
        return None
    if book.tranches and side.sign * (tick.usd / book.tranches[-1].usd - 1) < ADD_STEP:
        return None
    equity = max(0.0, book.equity(tick.usd))
    notional = equity * RISK_PER_ORDER / tick.volatility if tick.volatility else 0.0
    return Order(f"entry_{side}", side.sign * notional / tick.usd, tick.usd, is_exit=False)


# --- Risk -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found; only a block has a reason."""

    result: str
    reason: str | None = None


ALLOW: Final = Verdict("allow")
WARN: Final = Verdict("warn")


@dataclass(frozen=True, slots=True)
class Loss:
    """A day's loss, marked to market against the previous close: USD and percent."""

    usd: float
    percent: float

    @property
    def breaks_limit(self) -> bool:
        """Whether trading halts for the day."""
        return self.usd > LIMITS[DAILY_LOSS_ABS] or self.percent > LIMITS[DAILY_LOSS_PCT]


def build_loss(equity_before: float, equity: float) -> Loss:
    """Give the day's loss; an account that was worth nothing has lost beyond any percentage."""
    usd = max(0.0, equity_before - equity)
    return Loss(usd, 100 * usd / equity_before if equity_before > 0 else math.inf)


def build_utilization(
    book: Book, usd: float, loss: Loss, order_notional: float
) -> dict[str, float]:
    """Give how much of each limit is used, by limit_id; 1.0 is all of it, above is a breach."""
    used = {
        ORDER_NOTIONAL: order_notional,
        TOTAL_EXPOSURE: book.gross_exposure(usd),
        OPEN_POSITIONS: float(len(book.tranches)),
        DAILY_LOSS_ABS: loss.usd,
        DAILY_LOSS_PCT: loss.percent,
    }
    return {limit_id: amount / LIMITS[limit_id] for limit_id, amount in used.items()}


def decide_limits(order: Order, utilization: Mapping[str, float]) -> Verdict:
    """Check an order against the limits as they would stand after it.

    The limit most exceeded is the reason. An exit only lowers risk and is never held back.
    """
    if order.is_exit:
        return ALLOW
    limit_id = max(utilization, key=lambda name: utilization[name])
    if utilization[limit_id] > 1:
        return Verdict("block", f"limit:{limit_id}")
    return WARN if utilization[limit_id] >= WARN_AT else ALLOW


def decide_runtime(order: Order, loss: Loss, pause_days: int) -> Verdict:
    """Check an order against the state of the session: halted, pausing, or without a size."""
    if order.is_exit:
        return ALLOW
    if loss.breaks_limit:
        return Verdict("block", "runtime:halt")
    if pause_days:
        return Verdict("block", "runtime:pause")
    return ALLOW if order.quantity else Verdict("block", "runtime:reject")


# --- A day ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """One increment of a counter, labels as they appear on the page."""

    metric: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Account:
    """What one day hands on to the next."""

    book: Book = Book()
    signal: Signal = Signal.FLAT
    equity: float = START_EQUITY
    pause_days: int = 0


@dataclass(frozen=True, slots=True)
class Day:
    """What a day leaves behind: increments in their order, both gauges' values, log lines."""

    counts: tuple[Count, ...]
    fills: int
    gross_exposure: float
    utilization: Mapping[str, float]
    lines: tuple[str, ...]


def decide_day(account: Account, tick: Tick, strategy_id: str) -> tuple[Account, Day]:
    """Trade one day on paper, at its price, without costs.

    The strategy decides anew every day: an entry that was blocked is asked for again.
    """
    book = account.book
    loss = build_loss(account.equity, book.equity(tick.usd))
    counts: list[Count] = []
    lines: list[str] = []
    if tick.signal is not account.signal:
        counts.append(Count(SIGNALS_TOTAL, {"strategy_id": strategy_id, "signal": tick.signal}))
        lines.append(f"{tick.day} signal {tick.signal} at {tick.usd:.2f}")

    fills = 0
    entry_notional = 0.0
    for order in find_orders(book, tick, halted=loss.breaks_limit):
        after = book.fill(order)
        verdicts = decide_checks(order, after, loss, account.pause_days)
        counts += build_order_counts(order, verdicts, strategy_id)
        lines.append(f"{tick.day} {render_order(order, verdicts)}")
        if not order.is_exit:
            entry_notional = order.notional
        if not any(verdict.reason for verdict in verdicts.values()):
            book = after
            fills += 1

    pause_days = PAUSE_DAYS if loss.breaks_limit else max(0, account.pause_days - 1)
    return Account(book, tick.signal, book.equity(tick.usd), pause_days), Day(
        counts=tuple(counts),
        fills=fills,
        gross_exposure=book.gross_exposure(tick.usd),
        utilization=build_utilization(book, tick.usd, loss, entry_notional),
        lines=tuple(lines),
    )


def decide_checks(order: Order, after: Book, loss: Loss, pause_days: int) -> dict[str, Verdict]:
    """Put an order before both checks, by name; `after` is the book if it were filled."""
    return {
        "runtime_risk.evaluate_pre_order": decide_runtime(order, loss, pause_days),
        "live_limits.check_orders": decide_limits(
            order, build_utilization(after, order.usd, loss, order.notional)
        ),
    }


def build_order_counts(
    order: Order, verdicts: Mapping[str, Verdict], strategy_id: str
) -> list[Count]:
    """Give an order's increments: one decision, one per check, one per block."""
    counts = [Count(DECISIONS_TOTAL, {"strategy_id": strategy_id, "decision": order.decision})]
    for check, verdict in verdicts.items():
        counts.append(Count(CHECKS_TOTAL, {"check": check, "result": verdict.result}))
        if verdict.reason:
            counts.append(Count(BLOCKS_TOTAL, {"reason": verdict.reason}))
    return counts


def render_order(order: Order, verdicts: Mapping[str, Verdict]) -> str:
    """Say in a line what was asked for and what became of it."""
    reasons = [verdict.reason for verdict in verdicts.values() if verdict.reason]
    if reasons:
        outcome = f"blocked by {', '.join(reasons)}"
    else:
        outcome = "filled, near a limit" if WARN in verdicts.values() else "filled"
    return f"{order.decision} {order.notional:,.0f} USD at {order.usd:.2f}: {outcome}"


# --- The session: clocks, signals and files from here on --------------------------------------

COUNTERS: Final[Mapping[str, Callable[..., None]]] = {
    SIGNALS_TOTAL: telemetry.inc_strategy_signal,
    DECISIONS_TOTAL: telemetry.inc_strategy_decision,
    CHECKS_TOTAL: telemetry.inc_risk_check,
    BLOCKS_TOTAL: telemetry.inc_risk_block,
}


class Stop:
    """TERM or INT asks the session to end; a sleeping one sees it at once.

    The handler only takes a note, so that it never comes between a ledger line and its increment.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        # select() starts over after a handler (PEP 475); the byte in this pipe is what ends it.
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def sleep_until(self, deadline: float) -> None:
        """Sleep to a moment of the monotonic clock, or until asked to end."""
        while not self.signal_name and (left := deadline - time.monotonic()) > 0:
            select.select([self._reader], [], [], min(left, 3600.0))


class Pace:
    """When the next price is due, and when there is none any more."""

    def __init__(self, options: Options, stop: Stop) -> None:
        self._stop = stop
        self._period = 1 / options.speed if options.speed else 0.0
        self._due = time.monotonic()
        self._ends_at = math.inf if options.duration is None else self._due + options.duration

    def wait(self) -> str | None:
        """Wait for the next price; or say why there is none."""
        self._stop.sleep_until(min(self._due, self._ends_at))
        now = time.monotonic()
        if self._stop.signal_name:
            return f"stopped by {self._stop.signal_name}"
        if now >= self._ends_at:
            return "duration spent"
        # A session that was held up goes on at its speed; it doesn't rush to catch up.
        self._due = max(self._due + self._period, now)
        return None


class Log:
    """Lines for a person, on stdout; when nobody can read them any more, the session goes on."""

    def __init__(self) -> None:
        self._stream = sys.stdout.buffer if sys.stdout else None

    def say(self, line: str) -> None:
        """Write a line at once."""
        if self._stream is None:
            return
        try:
            self._stream.write(f"{line}\n".encode(errors="backslashreplace"))
            self._stream.flush()
        except OSError:
            # The interpreter flushes what is left when it ends, and would fail on it again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = None


def complain(message: str, hint: str) -> None:
    """Say on stderr what cannot be done and what to do about it."""
    if sys.stderr:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"shadow_session: {message}\nhint: {hint}\n")
            sys.stderr.flush()


class Ledger:
    """One JSON line an increment, written before it: after a kill it is at most one ahead."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise SessionError(
                f"cannot open ledger {path}: {error.strerror}",
                "--ledger takes a file, new or to be appended to, in a directory that exists",
            ) from None

    def append(self, count: Count) -> bool:
        """Write a count's line in one piece; False: it is not there and must not be counted.

        After one failure no line is tried again: a torn one is then the last.
        """
        if self._failed:
            return False
        line = json.dumps({"metric": count.metric, "labels": count.labels, "n": 1}) + "\n"
        try:
            if os.write(self._fd, line.encode()) == len(line):
                return True
            reason = "only a part of a line was written"
        except OSError as error:
            reason = error.strerror or str(error)
        self._failed = True
        complain(
            f"cannot write ledger {self._path}: {reason}",
            "the session goes on; its counters stand still, so that the ledger covers them",
        )
        return False


class Session:
    """The replay under way: its account, what it has counted, and where both go."""

    def __init__(self, options: Options, ledger: Ledger | None, log: Log) -> None:
        self._options = options
        self._ledger = ledger
        self._log = log
        self._account = Account()
        self._days = 0
        self._passes = 1
        self._earlier_profit = 0.0
        self._fills = 0
        self._tally: Counter[tuple[str, str]] = Counter()

    def replay(self, ticks: Sequence[Tick], pace: Pace) -> str:
        """Trade day by day until there is no next price; say why there is none.

        Each pass over the prices is the same session anew, with a fresh account; what the one
        before left open counts as closed at its last price.
        """
        while True:
            for tick in ticks:
                reason = pace.wait()
                if reason:
                    return reason
                self._trade(tick)
            if not self._options.repeats:
                return "prices replayed"
            self._earlier_profit += self._account.equity - START_EQUITY
            self._account = Account()
            self._passes += 1

    def _trade(self, tick: Tick) -> None:
        self._account, day = decide_day(self._account, tick, self._options.strategy_id)
        self._days += 1
        self._fills += day.fills
        for count in day.counts:
            self._count(count)
        telemetry.set_strategy_position_gross_exposure(
            strategy_id=self._options.strategy_id, ccy=CURRENCY, exposure=day.gross_exposure
        )
        for limit_id, ratio in day.utilization.items():
            telemetry.set_risk_limit_utilization(limit_id=limit_id, utilization_0_1=min(ratio, 1.0))
        if not self._options.quiet:
            for line in day.lines:
                self._log.say(line)

    def _count(self, count: Count) -> None:
        *_, kind = count.labels.values()
        self._tally[count.metric, kind] += 1
        if self._ledger is None or self._ledger.append(count):
            COUNTERS[count.metric](**count.labels)

    def render_summary(self, reason: str) -> str:
        """Say how it went: days, what was counted and the paper profit."""
        realised = self._earlier_profit + self._account.book.realised
        unrealised = self._account.equity - START_EQUITY - self._account.book.realised
        counted = "; ".join(
            f"{name} {self._render_tally(metric)}"
            for name, metric in (
                ("signals", SIGNALS_TOTAL),
                ("decisions", DECISIONS_TOTAL),
                ("checks", CHECKS_TOTAL),
                ("blocks", BLOCKS_TOTAL),
            )
        )
        return (
            f"summary: {reason}; days {self._days}, passes {self._passes}; {counted}\n"
            f"summary: orders filled {self._fills}; paper profit {CURRENCY}"
            f" {realised + unrealised:+z,.2f} (realised {realised:+z,.2f},"
            f" unrealised {unrealised:+z,.2f})"
        )

    def _render_tally(self, metric: str) -> str:
        kinds = sorted((kind, n) for (name, kind), n in self._tally.items() if name == metric)
        return ", ".join(f"{n} {kind}" for kind, n in kinds) or "none"


# --- The command line -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, read."""

    strategy: str
    strategy_id: str
    prices: Path
    speed: float
    duration: float | None
    loop: bool
    ledger: Path | None
    quiet: bool

    @property
    def repeats(self) -> bool:
        """Whether the prices begin again at their end."""
        return self.loop or self.duration is not None


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line and a hint."""

    def error(self, message: str) -> NoReturn:
        """Raise SessionError."""
        raise SessionError(f"cannot start: {message}", "--help lists the options")


def parse_speed(text: str) -> float:
    """Read prices per second: 0 or more."""
    speed = parse_number(text)
    if not 0 <= speed < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of prices per second")
    return speed


def parse_duration_seconds(text: str) -> float:
    """Read a time in seconds: more than 0."""
    seconds = parse_number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds")
    return seconds


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line. Raises SessionError."""
    parser = Parser(
        prog="shadow_session", description="Trade on paper over a file of daily prices."
    )
    parser.add_argument(
        "--strategy", choices=tuple(STRATEGIES), default="macd", help="default: %(default)s"
    )
    parser.add_argument(
        "--strategy-id", metavar="ID", help="the label of its metrics; default: the strategy's name"
    )
    parser.add_argument(
        "--prices",
        type=Path,
        metavar="FILE",
        default=DEFAULT_PRICES,
        help=f"a CSV file: {PRICES_FORMAT}; default: WTI crude oil, 2014 to 2018",
    )
    parser.add_argument(
        "--speed",
        type=parse_speed,
        metavar="N",
        default=DEFAULT_SPEED,
        help="prices per second; 0: as fast as possible; default: %(default)g",
    )
    parser.add_argument(
        "--duration",
        type=parse_duration_seconds,
        metavar="SECONDS",
        help="end after this time, the prices repeating until then; default: when they have been"
        " replayed once",
    )
    parser.add_argument(
        "--loop", action="store_true", help="repeat the prices for ever, or to the duration"
    )
    parser.add_argument(
        "--ledger",
        type=Path,
        metavar="FILE",
        help="append each counter increment, before it is made, as a line of JSON",
    )
    parser.add_argument("--quiet", action="store_true", help="log only the start and the summary")
    options = parser.parse_args(arguments)
    if options.strategy_id is None:
        options.strategy_id = options.strategy
    # The ledger names the series as the page does.
    options.strategy_id = sanitize_strategy_id(options.strategy_id)
    return Options(**vars(options))


def read_ticks(options: Options) -> list[Tick]:
    """Read the price file into the days to replay. Raises SessionError."""
    try:
        # utf-8-sig: spreadsheets begin a CSV with a byte order mark.
        with options.prices.open(encoding="utf-8-sig", newline="") as lines:
            prices = parse_prices(lines)
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except PricesError as error:
        reason = str(error)
    else:
        strategy = STRATEGIES[options.strategy]
        if len(prices) >= strategy.warm_up_days:
            return build_ticks(strategy, prices)
        reason = f"{len(prices)} prices; {options.strategy} needs {strategy.warm_up_days}"
    raise SessionError(
        f"cannot replay {options.prices}: {reason}", f"--prices takes a CSV file: {PRICES_FORMAT}"
    )


def render_start(options: Options, ticks: Sequence[Tick]) -> str:
    """Say in a line what is going to be replayed."""
    name = os.environ.get("PTSUP_SESSION")
    return (
        f"paper session{f' {name}' if name else ''}: {options.strategy} as {options.strategy_id}"
        f" over {options.prices.name}, {len(ticks)} days from {ticks[0].day} to {ticks[-1].day},"
        f" {f'{options.speed:g} a second' if options.speed else 'as fast as possible'}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a session; give its exit status: 0 when it ended as asked, 2 when it cannot start."""
    stop = Stop()
    try:
        options = parse_options(arguments)
        ticks = read_ticks(options)
        ledger = Ledger(options.ledger) if options.ledger else None
    except SessionError as error:
        complain(str(error), error.hint)
        return 2
    log = Log()
    log.say(render_start(options, ticks))
    telemetry.ensure_registered()
    if telemetry.start_session_http():
        log.say("serving this session's own metrics (mode A)")
    session = Session(options, ledger, log)
    log.say(session.render_summary(session.replay(ticks, Pace(options, stop))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
