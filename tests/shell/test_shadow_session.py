"""The example session as a real child: its ledger against its shards, its ends and its refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from math import sin
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "examples" / "shadow_session.py"
STRATEGIES = ("macd", "ma_crossover", "momentum")
OURS = ("PEAK", "PROMETHEUS", "prometheus", "PTSUP", "PYTHON")

Series = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    directory = tmp_path / "prom_multiproc"
    directory.mkdir()
    return directory


def build_environment(shards: Path | None, **extra: str) -> dict[str, str]:
    """Mode B with this shard directory; mode A without one."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    if shards is not None:
        environment |= {
            "PEAKTRADE_METRICS_MODE": "B",
            "PEAKTRADE_METRICS_MULTIPROC_DIR": str(shards),
        }
    return environment | extra


def run(
    shards: Path | None, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a session to its end, without a pause between the prices."""
    return subprocess.run(
        [sys.executable, EXAMPLE, "--speed", "0", *map(str, arguments)],
        env=build_environment(shards, **environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def spawn(
    shards: Path | None, *arguments: object, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A session that runs on; killed at the end if nothing has ended it."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLE, *map(str, arguments)],
        env=build_environment(shards, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_ledger(path: Path, start: int = 0) -> list[Series]:
    """Read the complete lines, one series each; they say 1 each and nothing else."""
    series = []
    with path.open("rb") as ledger:
        ledger.seek(start)
        for line in ledger:
            if line.endswith(b"\n"):
                entry = json.loads(line)
                assert entry == {"metric": entry["metric"], "labels": entry["labels"], "n": 1}
                series.append((entry["metric"], frozenset(entry["labels"].items())))
    return series


def read_page(shards: Path) -> dict[Series, float]:
    """Read what prometheus_client's own collector makes of the shards."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(shards))  # type: ignore[no-untyped-call]
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def read_counters(shards: Path) -> dict[Series, float]:
    """Read the counters that have counted; those at 0 are there for increase() only."""
    page = read_page(shards)
    return {key: value for key, value in page.items() if key[0].endswith("_total") and value}


def read_results(ledger: list[Series]) -> set[str]:
    return {value for _, labels in ledger for name, value in labels if name == "result"}


# --- What is counted


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_counter_equals_the_ledger_and_all_families_are_updated(
    shards: Path, tmp_path: Path, strategy: str
) -> None:
    ended = run(shards, "--strategy", strategy, "--ledger", tmp_path / "ledger")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1255 days from 2014-01-02 to 2018-12-28" in ended.stdout

    ledger = read_ledger(tmp_path / "ledger")
    assert read_counters(shards) == Counter(ledger)
    assert read_results(ledger) == {"allow", "warn", "block"}
    assert {
        name
        for (name, labels), value in read_page(shards).items()
        if value and ("strategy_id" not in dict(labels) or ("strategy_id", strategy) in labels)
    } == {
        "peaktrade_strategy_decisions_total",
        "peaktrade_strategy_signals_total",
        "peaktrade_strategy_position_gross_exposure",
        "peaktrade_risk_checks_total",
        "peaktrade_risk_limit_utilization",
        "peaktrade_risk_blocks_total",
    }


def test_sessions_that_share_a_ledger_add_up(shards: Path, tmp_path: Path) -> None:
    arguments = ("--speed", "0", "--quiet", "--ledger", tmp_path / "ledger")
    with spawn(shards, *arguments) as one, spawn(shards, *arguments) as two:
        for process in (one, two):
            assert process.wait(timeout=30) == 0
    ledger = read_ledger(tmp_path / "ledger")
    assert read_counters(shards) == Counter(ledger)
    assert all(count % 2 == 0 for count in Counter(ledger).values())


def test_equal_runs_count_equally_and_strategies_differ(tmp_path: Path, shards: Path) -> None:
    ledgers = []
    for number, strategy in enumerate((*STRATEGIES, "macd")):
        path = tmp_path / f"ledger{number}"
        run(shards, "--strategy", strategy, "--strategy-id", "same", "--ledger", path)
        ledgers.append(path.read_bytes())
    assert ledgers[0] == ledgers[3]
    assert len(set(ledgers)) == 3


def test_the_label_is_in_the_ledger_as_it_is_on_the_page(shards: Path, tmp_path: Path) -> None:
    run(shards, "--strategy-id", " My/Desk Ä1 ", "--ledger", tmp_path / "ledger")
    assert read_counters(shards) == Counter(read_ledger(tmp_path / "ledger"))


def test_the_defaults_allow_warn_and_block_within_five_seconds(
    shards: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    with spawn(shards, "--ledger", ledger) as process:
        wait_for(
            lambda: (
                ledger.exists()
                and read_results(read_ledger(ledger)) == {"allow", "warn", "block"}
                and len(read_ledger(ledger)) >= 24
            ),
            timeout_seconds=5,
            what="dozens of increments",
        )
        process.terminate()
        assert process.wait(timeout=5) == 0


# --- How it ends


def test_the_prices_repeat_until_the_duration_is_spent(shards: Path, tmp_path: Path) -> None:
    prices = tmp_path / "short.csv"
    prices.write_text("".join(f"2024-01-{day:02},{day}\n" for day in range(1, 32)))
    started = time.monotonic()
    ended = run(shards, "--duration", "0.5", "--prices", prices, "--strategy", "momentum")
    assert time.monotonic() - started >= 0.5
    assert "summary: duration spent;" in ended.stdout
    assert "passes 1;" not in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sleeping_session_ends_at_once_with_a_summary(
    shards: Path, number: signal.Signals
) -> None:
    with spawn(shards, "--loop", "--speed", "0.01") as process:
        assert process.stdout is not None
        process.stdout.readline()
        # The first price has been traded, and the second is more than a minute away.
        wait_for(
            lambda: (
                any(b"max_daily_loss_pct" in shard.read_bytes() for shard in shards.iterdir())
                and psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING
            ),
            what="a session asleep",
        )
        process.send_signal(number)
        assert process.wait(timeout=3) == 0
        assert process.stdout.read().startswith(f"summary: stopped by {number.name}; days 1,")


def test_a_killed_session_has_at_most_its_last_ledger_line_uncounted(
    shards: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    with spawn(shards, "--loop", "--speed", "0", "--quiet", "--ledger", path) as process:
        wait_for(lambda: path.exists() and path.stat().st_size > 100_000, what="a ledger")
        process.kill()
        process.wait(timeout=5)
    ledger = read_ledger(path)
    assert read_counters(shards) in (Counter(ledger), Counter(ledger[:-1]))


# --- The user's own prices


def test_a_price_file_of_the_users_own_is_replayed(shards: Path, tmp_path: Path) -> None:
    rows = [
        f"{2000 + day // 12}-{day % 12 + 1:02}-01,x,{50 + 9 * sin(day / 5)}" for day in range(90)
    ]
    prices = tmp_path / "mine.csv"
    prices.write_text("\ufeffDate,Note,Close\r\n" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    ended = run(shards, "--prices", prices, PTSUP_SESSION="desk")
    assert ended.returncode == 0
    assert ended.stdout.startswith("paper session desk: macd as macd over mine.csv, 90 days")
    assert read_counters(shards)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"date,price\n2024-01-02,1.5\n2024-01-03,abc\n", "line 3: 'abc' is not a price"),
        (b"2024-01-02,1.5\n2024-01-01,1.5\n", "line 2: 2024-01-01 does not come after"),
        (b"a,b\n1,2\n", "line 1: no date and price columns"),
        (b"date,price\n2024-01-02,1.5\n", "1 prices; macd needs 35"),
        (b"", "0 prices; macd needs 35"),
        (b"date,price\n\xff\xfe\n", "not UTF-8 text"),
        (None, "No such file or directory"),
    ],
)
def test_a_bad_price_file_is_refused_in_a_line_and_a_hint(
    shards: Path, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    prices = tmp_path / "bad.csv"
    if content is not None:
        prices.write_bytes(content)
    ended = run(shards, "--prices", prices, "--ledger", tmp_path / "ledger")
    line, hint = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert line.startswith(f"shadow_session: cannot replay {prices}: {complaint}")
    assert hint.startswith("hint: --prices takes a CSV file")
    assert list(tmp_path.rglob("*.db")) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--speed", "fast"), "argument --speed: 'fast' is not a number of prices per second"),
        (("--speed", "-1"), "argument --speed: '-1' is not"),
        (("--duration", "0"), "argument --duration: '0' is not a time in seconds"),
        (("--duration", "inf"), "argument --duration: 'inf' is not"),
        (("--strategy", "guess"), "argument --strategy: invalid choice"),
    ],
)
def test_a_bad_option_is_refused_in_a_line_and_a_hint(
    shards: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    ended = run(shards, *arguments)
    line, hint = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert line.startswith(f"shadow_session: cannot start: {complaint}")
    assert hint == "hint: --help lists the options"


# --- What may fail around it


def test_a_ledger_that_cannot_be_opened_is_refused(shards: Path, tmp_path: Path) -> None:
    ended = run(shards, "--ledger", tmp_path / "nowhere" / "ledger")
    line, hint = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert line.endswith("nowhere/ledger: No such file or directory")
    assert line.startswith("shadow_session: cannot open ledger")
    assert hint.startswith("hint: ")


def test_what_a_full_ledger_cannot_take_is_not_counted(shards: Path, tmp_path: Path) -> None:
    # A file size limit cuts a write short, as a disk that fills up does. The ledger begins just
    # below it, the shards stay far below.
    limit = 8 * 1024 * 1024
    ledger = tmp_path / "ledger"
    ledger.touch()
    os.truncate(ledger, limit - 10_000)
    limited = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", limited, EXAMPLE, "--speed", "0", "--ledger", ledger],
        env=build_environment(shards),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    line, hint = ended.stderr.splitlines()
    assert ended.returncode == 0
    assert line.startswith(f"shadow_session: cannot write ledger {ledger}: ")
    assert hint.startswith("hint: the session goes on")
    assert "summary: prices replayed; days 1255" in ended.stdout
    assert ledger.stat().st_size == limit
    counted = read_ledger(ledger, start=limit - 10_000)
    assert len(counted) > 50
    assert read_counters(shards) == Counter(counted)


@pytest.mark.parametrize("how", ["gone", "never there"])
def test_a_session_works_on_when_nobody_reads_its_output(
    shards: Path, tmp_path: Path, how: str
) -> None:
    script = 'exec "$@" >&-' if how == "never there" else 'exec "$@"'
    ledger = tmp_path / "ledger"
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", sys.executable, EXAMPLE, "--speed", "0", "--ledger", ledger],
        env=build_environment(shards),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 0
    counted = read_ledger(ledger)
    assert len(counted) > 2_000
    assert read_counters(shards) == Counter(counted)


def test_without_prometheus_client_it_trades_uncounted(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')\n")
    ended = run(shards, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "summary: prices replayed; days 1255" in ended.stdout


def test_without_telemetry_it_says_so(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-S", EXAMPLE],
        env=build_environment(None),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    line, hint = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert line == "shadow_session: cannot import telemetry: No module named 'telemetry'"
    assert hint.startswith("hint: install ptsup into this interpreter")


# --- Mode A


def fetch(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_in_mode_a_a_session_serves_its_own_page() -> None:
    port = find_free_port()
    arguments = ("--loop", "--speed", "1000")
    with spawn(None, *arguments, PEAK_TRADE_METRICSD_PORT=str(port)) as process:
        wait_for(
            lambda: 'peaktrade_risk_checks_total{check="live_limits' in fetch(port),
            what="a page",
        )
        process.terminate()
        assert process.wait(timeout=5) == 0


def test_in_mode_a_a_taken_port_does_not_end_the_session(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as holder:
        port = holder.getsockname()[1]
        ended = run(None, "--ledger", tmp_path / "ledger", PEAK_TRADE_METRICSD_PORT=str(port))
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "summary: prices replayed; days 1255" in ended.stdout


def test_in_mode_b_it_binds_nothing(shards: Path, tmp_path: Path) -> None:
    port, ledger = find_free_port(), tmp_path / "ledger"
    arguments = ("--loop", "--speed", "1000", "--ledger", ledger)
    with spawn(shards, *arguments, PEAK_TRADE_METRICSD_PORT=str(port)) as process:
        wait_for(lambda: ledger.exists() and read_ledger(ledger), what="a first increment")
        assert fetch(port) == ""
        process.terminate()
        assert process.wait(timeout=5) == 0
