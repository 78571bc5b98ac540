"""A session's six metric families, and the only way to count in them.

Owns this process's registration with prometheus_client. Never raises into the session, never
binds a port in Mode B, and never imports prometheus_client before a session registers:
metricsd and the supervisor import this package too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import reprlib
import sys
import threading
from collections import Counter as Tally
from collections import deque
from typing import TYPE_CHECKING, Final

from telemetry.labels import (
    ALLOWLISTS,
    parse_count,
    parse_exposure,
    parse_label,
    parse_utilization,
)
from telemetry.mode import (
    LIBRARY_DIR_VARIABLE,
    MULTIPROC_DIR_VARIABLE,
    PORT_VARIABLES,
    Mode,
    parse_mode,
    parse_port,
    parse_session_dir,
)
from telemetry.preallocate import ShardSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Lock, RLock
    from typing import Literal

    from prometheus_client import Counter, Gauge

    # Adds to one counter, or sets one gauge.
    Record = Callable[[float], None]


class FamilySpec:
    """One row of the table that dashboards depend on, and how its number is read.

    Neither a dataclass nor a NamedTuple: each of them takes a third of the 5 ms that a session may
    wait for us, the one to be imported, the other to be made.
    """

    __slots__ = ("argument", "help", "kind", "label_names", "name", "parse")

    def __init__(
        self,
        name: str,
        kind: Literal["counter", "gauge_livemax"],  # as in the names of the shard files
        label_names: tuple[str, ...],
        help: str,  # noqa: A002  the field's own word
        argument: str,
        parse: Callable[[object], float | None],
    ) -> None:
        self.name, self.kind, self.label_names = name, kind, label_names
        self.help, self.argument, self.parse = help, argument, parse


FAMILIES: Final = (
    FamilySpec(
        "peaktrade_strategy_decisions_total",
        "counter",
        ("strategy_id", "decision"),
        "Total number of strategy decisions finalized (watch/paper/shadow).",
        "n",
        parse_count,
    ),
    FamilySpec(
        "peaktrade_strategy_signals_total",
        "counter",
        ("strategy_id", "signal"),
        "Total number of final strategy signal changes emitted (watch/paper/shadow).",
        "n",
        parse_count,
    ),
    FamilySpec(
        "peaktrade_strategy_position_gross_exposure",
        "gauge_livemax",
        ("strategy_id", "ccy"),
        "Gross exposure (abs notional) per strategy in ccy units.",
        "exposure",
        parse_exposure,
    ),
    FamilySpec(
        "peaktrade_risk_checks_total",
        "counter",
        ("check", "result"),
        "Total number of risk check evaluations (watch/paper/shadow).",
        "n",
        parse_count,
    ),
    FamilySpec(
        "peaktrade_risk_limit_utilization",
        "gauge_livemax",
        ("limit_id",),
        "Risk limit utilization ratio (clamped 0..1).",
        "utilization_0_1",
        parse_utilization,
    ),
    FamilySpec(
        "peaktrade_risk_blocks_total",
        "counter",
        ("reason",),
        "Total number of risk blocks by finite reason allowlist.",
        "n",
        parse_count,
    ),
)

# What comes from outside may not grow a session or its shards without bound.
MAX_SERIES: Final = 10_000
_MAX_SPELLINGS: Final = 10_000
_MAX_SPELLING_CHARACTERS: Final = 128
# More than any series of ours takes in a shard: its name twice, its help, its labels, its value.
SERIES_BYTES: Final = 512

# Of prometheus_client's lock: which of the two it is depends on the version.
_LOCK_TYPES: Final = (type(threading.Lock()), type(threading.RLock()))
_SHORT: Final = reprlib.Repr()
_MESSAGE_CHARACTERS: Final = 300
_SHORT.maxstring = _SHORT.maxother = _MESSAGE_CHARACTERS


def build_zero_series(spec: FamilySpec, strategy_id: str | None) -> list[tuple[str, ...]]:
    """List the label values, in the order of the label names, at which a counter starts at 0.

    With None: those of a family without strategies; with a strategy: its own, of the others.
    """
    of_strategies = "strategy_id" in spec.label_names
    if spec.kind != "counter" or of_strategies != (strategy_id is not None):
        return []
    choices = (ALLOWLISTS.get(name, (strategy_id or "",)) for name in spec.label_names)
    return list(itertools.product(*choices))


class _Family:
    """One family, and the label values it has met: what was valid once is counted at once."""

    __slots__ = ("_session", "collector", "known", "series", "spec")

    def __init__(self, session: _Session, spec: FamilySpec) -> None:
        self._session = session
        self.spec = spec
        self.collector: Counter | Gauge | None = None
        # By label values as they are written, and as they were given.
        self.series: dict[tuple[str, ...], Record] = {}
        self.known: dict[tuple[object, ...], Record] = {}

    def count(self, raw: tuple[object, ...], amount: object) -> None:
        """Add to a counter. Every increment of a session comes through here: keep it short."""
        try:
            record = self.known.get(raw)
            if record is None or type(amount) is not int or amount < 0:
                self._session.update(self, raw, amount)
            else:
                record(amount)
        except Exception as error:  # noqa: BLE001 - nothing may raise into the session
            self._session.note_failure(error)

    def set(self, raw: tuple[object, ...], amount: object) -> None:
        """Set a gauge."""
        try:
            record = self.known.get(raw)
            number = self.spec.parse(amount)
            if record is None or number is None:
                self._session.update(self, raw, amount)
            else:
                record(number)
        except Exception as error:  # noqa: BLE001 - nothing may raise into the session
            self._session.note_failure(error)

    def remember(self, raw: tuple[object, ...], record: Record) -> None:
        """Know these label values from now on, as they were given, unless they are too long."""
        if not all(isinstance(v, str) and len(v) <= _MAX_SPELLING_CHARACTERS for v in raw):
            return
        if len(self.known) >= _MAX_SPELLINGS:
            self.known.clear()
        self.known[raw] = record

    def open_series(self, values: tuple[str, ...]) -> None:
        """Create a series in prometheus_client; a counter's is 0 from here on."""
        assert self.collector is not None
        child = self.collector.labels(*values)
        if self.spec.kind == "gauge_livemax":
            self.series[values] = child.set  # type: ignore[union-attr]
        else:
            # Counter.inc() would check once more what is checked here.
            self.series[values] = getattr(child, "_value", child).inc


class _Session:
    """This process's one registration: untried, then on or off for good."""

    def __init__(self) -> None:
        self.families = tuple(_Family(self, spec) for spec in FAMILIES)
        self.rejected: Tally[str] = Tally()
        self._lock = threading.RLock()
        self._state: Literal["untried", "on", "off"] = "untried"
        self._space: ShardSpace | None = None
        self._serving = False
        self._forked = False
        self._library_lock: Lock | RLock | None = None
        self._library_lock_held = False
        self._unsaid: deque[str] = deque()

    def register(self) -> None:
        """Register once, and allocate the shards of a forked process; afterwards do nothing."""
        if self._state == "untried" or self._forked:
            with self._exclusive():
                self._is_on()

    def update(self, family: _Family, raw: tuple[object, ...], amount: object) -> None:
        """Take the long way: for what has not been seen before, or is not quite right."""
        if self._state == "off":
            return
        number = family.spec.parse(amount)
        with self._exclusive():
            if not self._is_on():
                return
            if number is None:
                self._reject(family.spec.argument, amount)
                return
            record = self._find_record(family, raw)
        if record is not None:
            record(number)

    def serve(self, port: int | None) -> bool:
        """Serve this process's metrics over HTTP; True when they are served."""
        if parse_mode(os.environ) is Mode.B:
            return False
        with self._exclusive():
            if self._serving or not self._is_on():
                return self._serving
            try:
                from prometheus_client import start_http_server  # noqa: PLC0415 - as in _start

                port = parse_port(os.environ) if port is None else port
                start_http_server(port)
            except Exception as error:  # noqa: BLE001 - the session goes on unserved
                where = "" if port is None else f" on port {_SHORT.repr(port)}"
                self._unsaid.append(
                    f"telemetry cannot serve metrics{where}: {_describe(error)}; the session goes "
                    f"on without. Set {PORT_VARIABLES[0]} to a free port, or use Mode B."
                )
            else:
                self._serving = True
            return self._serving

    def note_failure(self, error: Exception) -> None:
        """Count an update that failed for an unforeseen reason."""
        if self._state == "off":
            return
        with self._exclusive():
            self.rejected["error"] += 1
            if self.rejected["error"] == 1:
                self._unsaid.append(
                    f"telemetry cannot count an update: {_describe(error)}; "
                    "further failures are counted in silence"
                )

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock, and say only afterwards what there is to say.

        A log handler has a lock of its own, which at that moment may wait for ours.
        """
        try:
            with self._lock:
                yield
        finally:
            while self._unsaid:
                with contextlib.suppress(IndexError):  # another thread was quicker
                    _warn(self._unsaid.popleft())

    def _is_on(self) -> bool:
        if self._state == "untried":
            self._switch(self._start)
        elif self._state == "on" and self._forked:
            self._switch(self._start_forked)
        return self._state == "on"

    def _switch(self, start: Callable[[], None]) -> None:
        try:
            start()
        except Exception as error:  # noqa: BLE001 - without metrics, but alive
            self._state = "off"
            self._unsaid.append(
                f"telemetry cannot set up metrics: {_describe(error)}; "
                "the session goes on without them"
            )
        else:
            self._state = "on"
            self._forked = False

    def _start(self) -> None:
        """Register the families; raises whatever keeps this process from having metrics."""
        # Before anything is created: without the library there is nothing to create it for.
        if importlib.util.find_spec("prometheus_client") is None:
            raise ModuleNotFoundError("prometheus_client is not installed")
        if parse_mode(os.environ) is Mode.B:
            self._enter_mode_b()
        # It reads the environment when it is imported, and Mode B has only now completed that.
        from prometheus_client import Counter, Gauge, values  # noqa: PLC0415

        if self._space is not None and values.ValueClass is values.MutexValue:
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
            self._unsaid.append(
                "telemetry cannot export the metrics that others made so far: prometheus_client "
                f"was imported before {LIBRARY_DIR_VARIABLE} was set; its own and later ones count"
            )
        self._library_lock = _find_lock(values.ValueClass.inc)
        for family in self.families:
            if family.collector is not None:
                continue  # an interrupt ended an earlier try
            spec = family.spec
            if spec.kind == "counter":
                family.collector = Counter(spec.name, spec.help, spec.label_names)
            else:
                family.collector = Gauge(
                    spec.name, spec.help, spec.label_names, multiprocess_mode="livemax"
                )
        self._create_series(self._build_zeros(None))

    def _enter_mode_b(self) -> None:
        """Take room for the shards; set their directory, absolute, for the library and children."""
        directory = _make_absolute(parse_session_dir(os.environ))
        library_dir = os.environ.get(LIBRARY_DIR_VARIABLE)
        values = sys.modules.get("prometheus_client.values")
        if library_dir and values is not None and values.ValueClass is not values.MutexValue:
            # Its shards may be open there already, and a shard must not have two writers.
            if os.path.realpath(library_dir) != os.path.realpath(directory):
                self._unsaid.append(
                    f"telemetry cannot write shards to {directory}: prometheus_client was "
                    f"imported with {LIBRARY_DIR_VARIABLE}={library_dir}, and they go there"
                )
            directory = _make_absolute(library_dir)
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103  as in _make_absolute
        space = ShardSpace(directory)
        space.allocate()
        self._space = space
        os.environ[LIBRARY_DIR_VARIABLE] = os.environ[MULTIPROC_DIR_VARIABLE] = directory

    def _start_forked(self) -> None:
        """Allocate this process's own shards, then let the library begin every series in them."""
        if self._space is not None:
            self._space.allocate()
        family, values = self._build_zeros(None)[0]
        family.series[values](0)  # on any update it notices that the process is a new one

    def _find_record(self, family: _Family, raw: tuple[object, ...]) -> Record | None:
        """Find or create the series of these label values; None when one of them is rejected."""
        values: list[str] = []
        for name, value in zip(family.spec.label_names, raw, strict=True):
            text = parse_label(name, value)
            if text is None:
                self._reject(name, value)
                return None
            values.append(text)
        key = tuple(values)
        if key not in family.series:
            strategy_id = key[0] if family.spec.label_names[0] == "strategy_id" else None
            wanted = [*self._build_zeros(strategy_id), (family, key)]
            if not self._create_series(wanted):
                self._reject("series", key)
                return None
        record = family.series[key]
        family.remember(raw, record)
        return record

    def _build_zeros(self, strategy_id: str | None) -> list[tuple[_Family, tuple[str, ...]]]:
        return [
            (family, values)
            for family in self.families
            for values in build_zero_series(family.spec, strategy_id)
        ]

    def _create_series(self, wanted: list[tuple[_Family, tuple[str, ...]]]) -> bool:
        """Create those that are missing; False, and none, where they would be too many."""
        missing = [item for item in dict.fromkeys(wanted) if item[1] not in item[0].series]
        if sum(len(family.series) for family in self.families) + len(missing) > MAX_SERIES:
            return False
        if self._space is not None:
            for prefix, count in Tally(family.spec.kind for family, _ in missing).items():
                self._space.make_room(prefix, count * SERIES_BYTES)
        for family, values in missing:
            family.open_series(values)
        return True

    def _reject(self, argument: str, value: object) -> None:
        self.rejected[argument] += 1
        if self.rejected[argument] == 1:
            self._unsaid.append(
                f"telemetry cannot count {argument}={_SHORT.repr(value)}: outside of what is "
                "allowed; further ones are dropped in silence"
            )

    def before_fork(self) -> None:
        """Let no other thread be in the middle of an update when the process is copied.

        prometheus_client has one lock for all its shards. Copied while a thread holds it, it
        would stay locked in the new process for ever.
        """
        self._lock.acquire()
        self._library_lock_held = (
            # A signal handler may fork inside an update of its own thread: then go without.
            self._library_lock is not None and self._library_lock.acquire(timeout=1)
        )

    def after_fork_in_parent(self) -> None:
        """Let updates go on."""
        if self._library_lock_held and self._library_lock is not None:
            self._library_lock.release()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Send every series through the long way once, which finds that the shards are new."""
        for family in self.families:
            family.known.clear()
        self._forked = True
        self._serving = False
        self.after_fork_in_parent()


def _make_absolute(directory: str) -> str:
    # No Path: pathlib takes a quarter of the time that a session may wait for us.
    if os.path.isabs(directory):  # noqa: PTH117
        return directory
    return os.path.join(os.getcwd(), directory)  # noqa: PTH109, PTH118


def _find_lock(function: object) -> Lock | RLock | None:
    """Find the lock that a function of prometheus_client closes over, if it does."""
    for cell in getattr(function, "__closure__", None) or ():
        if isinstance(cell.cell_contents, _LOCK_TYPES):
            lock: Lock | RLock = cell.cell_contents
            return lock
    return None


def _describe(error: Exception) -> str:
    """Say in one line what went wrong, even where the error itself cannot say it."""
    text = type(error).__name__
    with contextlib.suppress(Exception):
        text = " ".join(str(error).split()) or text
    return text[:_MESSAGE_CHARACTERS]


def _warn(message: str) -> None:
    """Log one line: on stderr where the session has not configured logging."""
    with contextlib.suppress(Exception):  # a broken handler is not the session's end
        import logging  # noqa: PLC0415 - 5 ms, and there is seldom anything to say

        logging.getLogger("telemetry").warning("%s", message)


_session = _Session()
_decisions, _signals, _exposure, _checks, _utilization, _blocks = _session.families
os.register_at_fork(
    before=_session.before_fork,
    after_in_parent=_session.after_fork_in_parent,
    after_in_child=_session.after_fork_in_child,
)


def ensure_registered() -> None:
    """Register the families, as the environment's mode says; the first update does it as well.

    In Mode B this allocates the shards of this process and sets PROMETHEUS_MULTIPROC_DIR. What
    goes wrong costs one warning on the `telemetry` logger, and the metrics; nothing is raised.
    """
    try:
        _session.register()
    except Exception as error:  # noqa: BLE001 - nothing may raise into the session
        _session.note_failure(error)


def start_session_http(port: int | None = None) -> bool:
    """Serve this process's metrics on 0.0.0.0 (Mode A); True when they are, also the second time.

    Without a port: PEAK_TRADE_METRICSD_PORT, PEAKTRADE_METRICS_PORT or 9111. A port that cannot
    be bound costs a warning. In Mode B metricsd serves: nothing is bound, the answer is False.
    """
    try:
        return _session.serve(port)
    except Exception as error:  # noqa: BLE001 - nothing may raise into the session
        _session.note_failure(error)
        return False


def rejected_total() -> dict[str, int]:
    """Count the updates of this process that were dropped, by the argument that was outside.

    `series` stands for label values beyond the bound of MAX_SERIES, `error` for anything else.
    """
    return dict(_session.rejected)


def inc_strategy_signal(*, strategy_id: str, signal: str, n: float = 1) -> None:
    """Count `n` final signal changes of a strategy; signal: long, short or flat."""
    _signals.count((strategy_id, signal), n)


def inc_strategy_decision(*, strategy_id: str, decision: str, n: float = 1) -> None:
    """Count `n` finalized decisions of a strategy; decision: entry_, exit_ or close_ a side."""
    _decisions.count((strategy_id, decision), n)


def set_strategy_position_gross_exposure(*, strategy_id: str, ccy: str, exposure: float) -> None:
    """Set the gross exposure (absolute notional) of a strategy, in units of `ccy`."""
    _exposure.set((strategy_id, ccy), exposure)


def inc_risk_check(*, check: str, result: str, n: float = 1) -> None:
    """Count `n` evaluations of a risk check; result: allow, block, warn, disabled or error."""
    _checks.count((check, result), n)


def set_risk_limit_utilization(*, limit_id: str, utilization_0_1: float) -> None:
    """Set how much of a risk limit is used, as a ratio that is clamped to 0..1."""
    _utilization.set((limit_id,), utilization_0_1)


def inc_risk_block(*, reason: str, n: float = 1) -> None:
    """Count `n` orders or runs blocked; reason: `runtime:…` or `limit:<limit_id>`."""
    _blocks.count((reason,), n)
