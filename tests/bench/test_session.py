"""What telemetry costs a session: an increment, and its start; beside prometheus_client alone."""

from __future__ import annotations

import contextlib
import operator
import statistics
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

import pytest

from bench.peers import divide, environ, print_section, print_table, program, scale

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.timeout(300)

ROUNDS: Final = scale(41, 5)
INCREMENTS: Final = scale(20_000, 500)  # a round
STARTS: Final = scale(41, 3)

# What a session would write without telemetry.
_FAMILIES: Final = """
from prometheus_client import Counter, Gauge
decisions = Counter("peaktrade_strategy_decisions", "d", ("strategy_id", "decision"))
signals = Counter("peaktrade_strategy_signals", "s", ("strategy_id", "signal"))
exposure = Gauge("peaktrade_strategy_position_gross_exposure", "e", ("strategy_id", "ccy"),
                 multiprocess_mode="livemax")
checks = Counter("peaktrade_risk_checks", "c", ("check", "result"))
utilization = Gauge("peaktrade_risk_limit_utilization", "u", ("limit_id",),
                    multiprocess_mode="livemax")
blocks = Counter("peaktrade_risk_blocks", "b", ("reason",))
"""
_ZEROS: Final = """
limits = ("max_order_notional", "max_total_exposure", "max_symbol_exposure",
          "max_open_positions", "max_daily_loss_abs", "max_daily_loss_pct")
for check in ("live_limits.check_orders", "runtime_risk.evaluate_pre_order"):
    for result in ("allow", "block", "warn", "disabled", "error"):
        checks.labels(check, result)
for reason in ("reject", "halt", "pause", "unknown"):
    blocks.labels(f"runtime:{reason}")
for limit in limits:
    blocks.labels(f"limit:{limit}")
"""
_STARTS: Final = {
    "prometheus_client, the six families": _FAMILIES,
    "the same, and the counters at 0": _FAMILIES + _ZEROS,
    "telemetry, `ensure_registered()`": "import telemetry\ntelemetry.ensure_registered()",
}
_TIMED: Final = """
import time
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""


def _environ(directory: str) -> Mapping[str, str]:
    return environ() | {
        "PEAKTRADE_METRICS_MODE": "B",
        "PEAKTRADE_METRICS_MULTIPROC_DIR": directory,
        "PROMETHEUS_MULTIPROC_DIR": directory,
    }


def test_an_increment() -> None:
    print_section(
        "An increment",
        f"A counter with two labels, in a session's process; {ROUNDS} rounds in turn of"
        f" {INCREMENTS:,} increments each. Microseconds of one: median (least … most).",
    )
    kinds = {
        "prometheus_client in-process, `labels(…).inc()`": "in-process",
        "prometheus_client multiprocess, `labels(…).inc()`": "multiprocess",
        "prometheus_client multiprocess, series kept": "kept",
        "telemetry, `inc_strategy_signal(…)`": "ours",
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    with contextlib.ExitStack() as stack:
        counters = {name: stack.enter_context(_counting(kind)) for name, kind in kinds.items()}
        for number in range(ROUNDS + 1):
            for name, process in counters.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{INCREMENTS}\n")
                process.stdin.flush()
                seconds = float(process.stdout.readline())
                if number:  # the first one warms up
                    times[name].append(seconds)
    stock = times["prometheus_client multiprocess, `labels(…).inc()`"]
    rows = [[name, _render_us(seconds), divide(seconds, stock)] for name, seconds in times.items()]
    print_table(("", "µs", "of multiprocess"), rows)


@contextlib.contextmanager
def _counting(kind: str) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="ptsup-bench-") as directory:
        env = environ() if kind == "in-process" else _environ(directory)
        with subprocess.Popen(
            program("count", kind),
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def test_a_start() -> None:
    print_section(
        "A session's start",
        f"Imports and registration in Mode B, timed inside {STARTS} fresh interpreters each, in"
        " turn. Milliseconds: median (least … most), and the median of what each took longer than"
        " the first one did just before.",
    )
    times: dict[str, list[float]] = {name: [] for name in _STARTS}
    for number in range(STARTS + 1):
        for name, code in _STARTS.items():
            with tempfile.TemporaryDirectory(prefix="ptsup-bench-") as directory:
                done = subprocess.run(
                    [sys.executable, "-c", _TIMED.format(code)],
                    env=_environ(directory),
                    check=True,
                    capture_output=True,
                    text=True,
                )
            if number:
                times[name].append(float(done.stdout))
    bare = next(iter(times.values()))
    rows = [
        [
            name,
            f"{statistics.median(s) * 1e3:.1f} ({min(s) * 1e3:.1f} … {max(s) * 1e3:.1f})",
            f"{statistics.median(map(operator.sub, s, bare)) * 1e3:+.1f}",
        ]
        for name, s in times.items()
    ]
    print_table(("", "ms", "difference"), rows)


def _render_us(seconds: list[float]) -> str:
    median, least, most = (
        f"{value * 1e6:.2f}" for value in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return f"{median} ({least} … {most})"
