"""A session of the chaos test: counts with the real library, each increment first in a ledger.

    session.py DIRECTORY LIFE

LIFE is a `plan.Session` as JSON. In DIRECTORY are `births`, a FIFO in which each process says
that it is there, and `ledgers/`, in which each writing thread has a file of its own. A ledger
that is finished ends with {"end": true}; after a kill its last line may not have been counted.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from prometheus_client import Counter, Gauge, Histogram, Summary

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

STRATEGIES: Final = ("macd", "momentum", "ma_crossover")
DECISIONS: Final = ("entry_long", "exit_long", "entry_short", "exit_short")
CHECKS: Final = ("live_limits.check_orders", "runtime_risk.evaluate_pre_order")
RESULTS: Final = ("allow", "block", "warn")
BUCKETS: Final = (0.25, 0.5, 1.0)
MODES: Final = (
    "max",
    "min",
    "sum",
    "mostrecent",
    "all",
    "livemax",
    "liveall",
    "livemostrecent",
)
# Whoever is to be killed waits for it, but not for ever.
KILL_COMES_WITHIN_SECONDS: Final = 60.0
# About as long as a fork needs until it can kill.
FORK_SECONDS: Final = 0.001


class Ledger:
    """The lines of one writing thread, each written before what it says is counted."""

    def __init__(self, directory: Path, name: str, role: str, thread: int = 0) -> None:
        path = directory / "ledgers" / f"{name}.{role}.{os.getpid()}.{thread}"
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line: Any) -> None:
        data = json.dumps(line).encode() + b"\n"
        if os.write(self._fd, data) != len(data):
            raise OSError("only a part of a line was written")


class Meters:
    """Metrics of every kind, some for every session and some for a few."""

    def __init__(self, rng: random.Random) -> None:
        self.checks = Counter("peaktrade_risk_checks_total", "checks", ["check", "result"])
        self.decisions = Counter("chaos_decisions_total", "decisions", ["strategy_id", "decision"])
        self.wait = Histogram("chaos_wait_seconds", "waits", ["strategy_id"], buckets=BUCKETS)
        self.size = Summary("chaos_size", "sizes", ["strategy_id"])
        self.levels = [
            # The library's type of a mode is a Literal of its own.
            Gauge(f"chaos_level_{mode}", mode, ["strategy_id"], multiprocess_mode=mode)  # type: ignore[arg-type]
            for mode in rng.sample(MODES, 3)
        ]

    def begin(self, ledger: Ledger, rng: random.Random) -> None:
        """Set each gauge, once a process: so `sum` is a sum of what ledgers say."""
        for level in self.levels:
            labels = {"strategy_id": rng.choice(STRATEGIES)}
            value = rng.randint(1, 1000)
            ledger.write(metric=level._name, labels=labels, set=value)
            level.labels(**labels).set(value)

    def count(self, ledger: Ledger, rng: random.Random) -> None:
        strategy = {"strategy_id": rng.choice(STRATEGIES)}
        amount = rng.randint(0, 12) / 8  # sums of eighths are exact
        match rng.randrange(6):
            case 0:
                ledger.write(metric="chaos_wait_seconds", labels=strategy, observe=amount)
                self.wait.labels(**strategy).observe(amount)
            case 1:
                ledger.write(metric="chaos_size", labels=strategy, observe=amount)
                self.size.labels(**strategy).observe(amount)
            case 2 | 3:
                labels = {"check": rng.choice(CHECKS), "result": rng.choice(RESULTS)}
                ledger.write(metric="peaktrade_risk_checks_total", labels=labels, n=1)
                self.checks.labels(**labels).inc()
            case _:
                labels = {**strategy, "decision": rng.choice(DECISIONS)}
                n = rng.randint(1, 3)
                ledger.write(metric="chaos_decisions_total", labels=labels, n=n)
                self.decisions.labels(**labels).inc(n)


class Stop:
    """TERM asks to end, at once or after a while; a line is finished in any case."""

    def __init__(self) -> None:
        self.at = math.inf
        self.linger_seconds = 0.0
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.at = min(self.at, time.monotonic() + self.linger_seconds)


def announce(directory: Path, name: str, role: str) -> None:
    # Not waiting for a reader: without one the test is gone, and this fails.
    births = os.open(directory / "births", os.O_WRONLY | os.O_NONBLOCK)
    os.write(births, json.dumps({"name": name, "role": role, "pid": os.getpid()}).encode() + b"\n")
    os.close(births)


def count(
    ledger: Ledger,
    meters: Meters,
    rng: random.Random,
    stop: Stop,
    until: float,
    each_turn: Callable[[], None] = lambda: None,
) -> None:
    """Count, mostly sleeping, until then or until asked to stop; then close the ledger."""
    while time.monotonic() < min(until, stop.at):
        each_turn()
        for _ in range(rng.randint(1, 4)):
            meters.count(ledger, rng)
        time.sleep(rng.uniform(0.01, 0.1))
    ledger.write(end=True)


class Workers:
    """Forks workers when it is time, and reaps the ones that die before the leader."""

    def __init__(self, directory: Path, life: dict[str, Any], meters: Meters, stop: Stop) -> None:
        self._directory = directory
        self._life = life
        self._meters = meters
        self._stop = stop
        self._born = time.monotonic()
        self._waiting = sorted(life["workers"], key=lambda worker: worker["fork_after_seconds"])
        self._pids: set[int] = set()

    def turn(self) -> None:
        age = time.monotonic() - self._born
        while self._waiting and age > self._waiting[0]["fork_after_seconds"]:
            worker = self._waiting.pop(0)
            pid = os.fork()
            if not pid:
                self._work(worker)
            self._pids.add(pid)
        self._pids -= {pid for pid in self._pids if os.waitpid(pid, os.WNOHANG)[0]}

    def _work(self, worker: dict[str, Any]) -> NoReturn:
        try:
            self._stop.at, self._stop.linger_seconds = math.inf, worker["linger_seconds"]
            if worker["setsid"]:
                os.setsid()
            announce(self._directory, self._life["name"], worker["role"])
            rng = random.Random(worker["seed"])
            ledger = Ledger(self._directory, self._life["name"], worker["role"])
            self._meters.begin(ledger, rng)
            count(ledger, self._meters, rng, self._stop, find_end(worker))
        except BaseException as error:  # noqa: BLE001 - nothing may go on in the leader's code
            sys.stderr.write(f"worker {worker['role']}: {error!r}\n")
            os._exit(1)
        os._exit(0)


def find_end(life: dict[str, Any]) -> float:
    waits = KILL_COMES_WITHIN_SECONDS if life["end"] in {"kill", "stillborn"} else 0.0
    lives: float = life["lives_seconds"]
    return time.monotonic() + lives + waits


def be_killed_soon(seconds: float) -> None:
    """Fork somebody who kills this process from outside, wherever in its code it is then."""
    leader = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        os.kill(leader, signal.SIGKILL)
        os._exit(0)
    time.sleep(FORK_SECONDS)


def main() -> int:
    directory, life = Path(sys.argv[1]), json.loads(sys.argv[2])
    rng = random.Random(life["seed"])
    stop = Stop()
    announce(directory, life["name"], "lead")
    end = find_end(life)
    ledger = Ledger(directory, life["name"], "lead")
    if life["end"] == "stillborn":
        be_killed_soon(life["lives_seconds"])
    meters = Meters(rng)
    meters.begin(ledger, rng)
    others = [
        threading.Thread(
            target=partial(
                count,
                Ledger(directory, life["name"], "lead", number),
                meters,
                random.Random(life["seed"] + number),
                stop,
                end,
            )
        )
        for number in range(1, life["threads"])
    ]
    for other in others:
        other.start()
    count(ledger, meters, rng, stop, end, Workers(directory, life, meters, stop).turn)
    for other in others:
        other.join()
    if life["end"] == "raise":
        raise RuntimeError("as planned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
