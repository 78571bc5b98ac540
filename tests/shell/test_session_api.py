"""The session API in real interpreters: what reaches the shards, the page and stderr."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from telemetry.labels import ALLOWLISTS
from telemetry.metrics import FAMILIES, build_zero_series
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

HELP = {
    "peaktrade_strategy_decisions": (
        "Total number of strategy decisions finalized (watch/paper/shadow)."
    ),
    "peaktrade_strategy_signals": (
        "Total number of final strategy signal changes emitted (watch/paper/shadow)."
    ),
    "peaktrade_strategy_position_gross_exposure": (
        "Gross exposure (abs notional) per strategy in ccy units."
    ),
    "peaktrade_risk_checks": ("Total number of risk check evaluations (watch/paper/shadow)."),
    "peaktrade_risk_limit_utilization": "Risk limit utilization ratio (clamped 0..1).",
    "peaktrade_risk_blocks": "Total number of risk blocks by finite reason allowlist.",
}
GAUGES = {"peaktrade_strategy_position_gross_exposure", "peaktrade_risk_limit_utilization"}

EVERY_CALL = """
ensure_registered()
inc_strategy_decision(strategy_id="MA Crossover", decision="entry_long")
inc_strategy_decision(strategy_id="ma_crossover", decision="entry_long", n=2)
inc_strategy_signal(strategy_id="MA Crossover", signal="flat", n=0.5)
set_strategy_position_gross_exposure(strategy_id="macd", ccy="eur", exposure=-1250.5)
inc_risk_check(check="live_limits.check_orders", result="warn", n=3)
set_risk_limit_utilization(limit_id="max_open_positions", utilization_0_1=1.7)
inc_risk_block(reason="limit:max_daily_loss_pct")
"""

# An import of prometheus_client fails, as where it was never installed.
WITHOUT_LIBRARY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prometheus_client":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Absent())
"""


class Session(NamedTuple):
    """Runs a program that has the whole API imported, as a session of its own."""

    cwd: Path
    environ: dict[str, str]

    @property
    def shards(self) -> Path:
        return Path(self.environ["PEAKTRADE_METRICS_MULTIPROC_DIR"])

    def build_command(self, program: str, *options: str) -> list[str]:
        return [sys.executable, *(options or ("-W", "error")), "-c", program]

    def run(self, program: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.build_command(program, *options),
            cwd=self.cwd,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run_well(self, program: str, *options: str, **environ: str) -> str:
        """Run to a clean end without a word on stderr; answer what was printed."""
        done = self.run(program, *options, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def run_warned(self, program: str, *options: str, **environ: str) -> str:
        """Run to a clean end with exactly one line on stderr; answer that line."""
        done = self.run(program, *options, **environ)
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.splitlines()
        return line


@pytest.fixture
def mode_a(tmp_path: Path) -> Session:
    return Session(tmp_path, {"PATH": os.environ["PATH"]})


@pytest.fixture
def mode_b(tmp_path: Path) -> Session:
    return Session(
        tmp_path,
        {
            "PATH": os.environ["PATH"],
            "PEAKTRADE_METRICS_MODE": "B",
            "PEAKTRADE_METRICS_MULTIPROC_DIR": str(tmp_path / "prom_multiproc"),
        },
    )


def read_shards(directory: Path) -> dict[str, Metric]:
    """Merge the shards as stock prometheus_client does, by metric name."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return {metric.name: metric for metric in registry.collect()}


def read_values(metrics: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """List the samples that are not 0 as (sample name, label values in the table's order)."""
    order = {spec.name: spec.label_names for spec in FAMILIES}
    return {
        (sample.name, *(sample.labels[name] for name in order[sample.name])): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name in order and sample.value
    }


def list_samples(metric: Metric) -> set[tuple[str, ...]]:
    return {tuple(sample.labels.values()) for sample in metric.samples}


def count_checks(directory: Path) -> float:
    """Sum up the risk checks in the shards."""
    return sum(read_values([read_shards(directory)["peaktrade_risk_checks"]]).values())


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# --- Mode B: what the shards say ---------------------------------------------------------------


def test_registration_creates_the_finite_counters_at_zero(mode_b: Session) -> None:
    mode_b.run_well("from telemetry import *; ensure_registered(); ensure_registered()")
    metrics = read_shards(mode_b.shards)
    assert set(metrics) == {"peaktrade_risk_checks", "peaktrade_risk_blocks"}
    checks = {(check, result) for check in ALLOWLISTS["check"] for result in ALLOWLISTS["result"]}
    assert list_samples(metrics["peaktrade_risk_checks"]) == checks
    assert list_samples(metrics["peaktrade_risk_blocks"]) == {(r,) for r in ALLOWLISTS["reason"]}
    assert read_values(metrics.values()) == {}


def test_every_update_arrives_under_its_documented_name_help_and_labels(mode_b: Session) -> None:
    mode_b.run_well("from telemetry import *" + EVERY_CALL)
    metrics = read_shards(mode_b.shards)
    assert {name: metric.documentation for name, metric in metrics.items()} == HELP
    assert {name for name, metric in metrics.items() if metric.type == "gauge"} == GAUGES
    assert {name for name, metric in metrics.items() if metric.type == "counter"} == (
        set(HELP) - GAUGES
    )
    assert read_values(metrics.values()) == {
        ("peaktrade_strategy_decisions_total", "ma_crossover", "entry_long"): 3,
        ("peaktrade_strategy_signals_total", "ma_crossover", "flat"): 0.5,
        ("peaktrade_strategy_position_gross_exposure", "macd", "EUR"): 1250.5,
        ("peaktrade_risk_checks_total", "live_limits.check_orders", "warn"): 3,
        ("peaktrade_risk_limit_utilization", "max_open_positions"): 1,
        ("peaktrade_risk_blocks_total", "limit:max_daily_loss_pct"): 1,
    }
    names = {path.name.rpartition("_")[0] for path in mode_b.shards.iterdir()}
    assert names == {"counter", "gauge_livemax"}


@pytest.mark.parametrize(
    "first_use",
    [
        'inc_strategy_decision(strategy_id="macd", decision="exit_long")',
        'inc_strategy_signal(strategy_id="macd", signal="long")',
        'set_strategy_position_gross_exposure(strategy_id="macd", ccy="EUR", exposure=1)',
    ],
)
def test_the_first_use_of_a_strategy_creates_all_its_counters(
    mode_b: Session, first_use: str
) -> None:
    mode_b.run_well(f"from telemetry import *; {first_use}")
    metrics = read_shards(mode_b.shards)
    decisions = {(decision, "macd") for decision in ALLOWLISTS["decision"]}
    signals = {(signal_, "macd") for signal_ in ALLOWLISTS["signal"]}
    assert list_samples(metrics["peaktrade_strategy_decisions"]) == decisions
    assert list_samples(metrics["peaktrade_strategy_signals"]) == signals


def test_the_first_update_registers_by_itself(mode_b: Session) -> None:
    mode_b.run_well('from telemetry import *; inc_risk_block(reason="runtime:halt")')
    assert read_values(read_shards(mode_b.shards).values()) == {
        ("peaktrade_risk_blocks_total", "runtime:halt"): 1
    }


def test_importing_telemetry_touches_nothing(mode_b: Session) -> None:
    mode_b.run_well("""
import os, sys
before, loaded = dict(os.environ), set(sys.modules)
import telemetry
assert os.environ == before
new = set(sys.modules) - loaded
assert not new & {"prometheus_client", "logging", "asyncio", "socket"}, new
""")
    assert not mode_b.shards.exists()


def test_the_api_is_what_the_package_exports(mode_b: Session) -> None:
    exported = mode_b.run_well("import telemetry; print(*telemetry.__all__)").split()
    assert exported == [
        "ensure_registered",
        "inc_risk_block",
        "inc_risk_check",
        "inc_strategy_decision",
        "inc_strategy_signal",
        "set_risk_limit_utilization",
        "set_strategy_position_gross_exposure",
        "start_session_http",
    ]


def test_a_relative_directory_stays_where_it_was_at_registration(mode_b: Session) -> None:
    mode_b.run_well(
        """
import os
from telemetry import *
ensure_registered()
os.mkdir("elsewhere"); os.chdir("elsewhere")
set_risk_limit_utilization(limit_id="max_open_positions", utilization_0_1=0.5)
assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == os.environ["PEAKTRADE_METRICS_MULTIPROC_DIR"]
print(os.environ["PROMETHEUS_MULTIPROC_DIR"])
""",
        PEAKTRADE_METRICS_MULTIPROC_DIR=".ops_local/prom_multiproc",
    )
    shards = mode_b.cwd / ".ops_local/prom_multiproc"
    assert len(list(shards.iterdir())) == 2
    assert ("peaktrade_risk_limit_utilization", "max_open_positions") in read_values(
        read_shards(shards).values()
    )
    assert not list((mode_b.cwd / "elsewhere").iterdir())


def test_a_missing_directory_is_made_for_its_owner_alone(mode_b: Session) -> None:
    mode_b.run_well("from telemetry import *; ensure_registered()")
    assert stat.S_IMODE(mode_b.shards.stat().st_mode) == 0o700


def test_the_directory_of_metricsd_goes_before_a_stale_one_of_the_library(mode_b: Session) -> None:
    stale = mode_b.cwd / "stale"
    mode_b.run_well("from telemetry import *" + EVERY_CALL, PROMETHEUS_MULTIPROC_DIR=str(stale))
    assert not stale.exists()
    assert "peaktrade_risk_checks" in read_shards(mode_b.shards)


# --- Mode B: the order of imports --------------------------------------------------------------


def test_telemetry_may_be_imported_late(mode_b: Session) -> None:
    mode_b.run_well("""
import json, logging, threading, urllib.request
def late():
    import telemetry
    telemetry.inc_risk_check(check="live_limits.check_orders", result="allow", n=7)
late()
""")
    assert count_checks(mode_b.shards) == 7


EARLY = """
import prometheus_client
before = prometheus_client.Counter("theirs_before_total", "Theirs.", ["kind"])
before.labels("a").inc(5)
"""


def test_an_early_import_without_a_directory_costs_one_warning_and_no_count(
    mode_b: Session,
) -> None:
    program = f"""
{EARLY}
from telemetry import *
{EVERY_CALL * 2}
after = prometheus_client.Counter("theirs_after_total", "Theirs.")
after.inc(6)
assert b'theirs_before_total{{kind="a"}} 5.0' in prometheus_client.generate_latest()
"""
    line = mode_b.run_warned(program)
    assert line.startswith("telemetry cannot export")
    metrics = read_shards(mode_b.shards)
    assert set(metrics) == {*HELP, "theirs_after"}
    values = read_values(metrics.values())
    assert values["peaktrade_strategy_decisions_total", "ma_crossover", "entry_long"] == 6
    assert values["peaktrade_risk_checks_total", "live_limits.check_orders", "warn"] == 6


def test_an_early_import_with_the_directory_is_nothing_special(mode_b: Session) -> None:
    mode_b.shards.mkdir()
    mode_b.run_well(
        f"{EARLY}\nfrom telemetry import *{EVERY_CALL}", PROMETHEUS_MULTIPROC_DIR=str(mode_b.shards)
    )
    assert set(read_shards(mode_b.shards)) == {*HELP, "theirs_before"}


def test_an_early_import_with_another_directory_keeps_one_writer_a_shard(mode_b: Session) -> None:
    other = mode_b.cwd / "other"
    other.mkdir()
    line = mode_b.run_warned(
        f"{EARLY}\nfrom telemetry import *{EVERY_CALL}", PROMETHEUS_MULTIPROC_DIR=str(other)
    )
    assert line.startswith(f"telemetry cannot write shards to {mode_b.shards}")
    assert set(read_shards(other)) == {*HELP, "theirs_before"}
    assert not mode_b.shards.exists()


# --- Mode A and the port -----------------------------------------------------------------------

SERVE = """
import sys
from telemetry import *
print(start_session_http(), start_session_http(), flush=True)
inc_risk_check(check="live_limits.check_orders", result="allow", n=4)
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(mode_a: Session, request: pytest.FixtureRequest) -> Iterator[int]:
    """A session in Mode A that serves on a free port, named by the parametrized variable."""
    port = find_free_port()
    with subprocess.Popen(
        mode_a.build_command(SERVE),
        cwd=mode_a.cwd,
        env=mode_a.environ | {request.param: str(port)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True True\n"
        assert process.stdout.readline() == "counted\n"
        yield port
        _, said = process.communicate("")
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize(
    "server", ["PEAK_TRADE_METRICSD_PORT", "PEAKTRADE_METRICS_PORT"], indirect=True
)
def test_mode_a_serves_its_own_metrics_on_the_port_of_the_environment(server: int) -> None:
    with urlopen(f"http://127.0.0.1:{server}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    assert {f.name: f.documentation for f in families if f.name in HELP} == HELP
    assert read_values(families) == {
        ("peaktrade_risk_checks_total", "live_limits.check_orders", "allow"): 4
    }


@pytest.mark.parametrize("server", ["PEAK_TRADE_METRICSD_PORT"], indirect=True)
def test_a_second_session_on_the_port_says_so_and_goes_on(mode_a: Session, server: int) -> None:
    line = mode_a.run_warned(
        """
from prometheus_client import generate_latest
from telemetry import *
assert start_session_http() is False
inc_risk_block(reason="runtime:pause")
assert b'peaktrade_risk_blocks_total{reason="runtime:pause"} 1.0' in generate_latest()
""",
        PEAK_TRADE_METRICSD_PORT=str(server),
    )
    assert line.startswith(f"telemetry cannot serve metrics on port {server}: ")
    assert "in use" in line


def test_a_forked_worker_does_not_take_the_server_of_its_parent_for_its_own(
    mode_a: Session,
) -> None:
    line = mode_a.run_warned(
        f"""
import os
from telemetry import *
assert start_session_http({find_free_port()})
worker = os.fork()
if not worker:
    os._exit(start_session_http())
assert os.waitpid(worker, 0)[1] == 0
""",
        "-W",
        "ignore::DeprecationWarning",
        PEAK_TRADE_METRICSD_PORT="1 or so",
    )
    assert line.startswith("telemetry cannot serve metrics: ")


@pytest.mark.parametrize("port", ["70000", "-1", "'http'", "2.5", "[]"])
def test_a_port_that_is_none_is_not_served(mode_a: Session, port: str) -> None:
    line = mode_a.run_warned(f"from telemetry import *\nassert start_session_http({port}) is False")
    assert line.startswith("telemetry cannot serve metrics on port")


def test_a_wrong_port_variable_is_named(mode_a: Session) -> None:
    line = mode_a.run_warned(
        "from telemetry import *\nassert start_session_http() is False",
        PEAK_TRADE_METRICSD_PORT="http",
    )
    assert line.startswith("telemetry cannot serve metrics: PEAK_TRADE_METRICSD_PORT is 'http'")


def test_mode_b_binds_nothing(mode_b: Session) -> None:
    mode_b.run_well(f"""
import psutil
from telemetry import *
assert start_session_http() is False
assert start_session_http({find_free_port()}) is False
ensure_registered()
assert not psutil.Process().net_connections()
""")


# --- Without metrics, but alive ----------------------------------------------------------------

NO_VALUE_RAISES = """
from telemetry import *
from telemetry.metrics import rejected_total
class Odd:
    def __eq__(self, other): raise RuntimeError("eq")
    def __hash__(self): raise RuntimeError("hash")
    def __float__(self): raise RuntimeError("float")
    def __repr__(self): raise RuntimeError("repr")
    def __str__(self): raise RuntimeError("str")
odd = [None, 7, True, b"macd", "", "x" * 5_000_000, ["a"], float("nan"), Odd()]
for v in odd:
    for w in odd:
        inc_strategy_decision(strategy_id=v, decision=w)
        inc_strategy_signal(strategy_id=v, signal=w)
        set_strategy_position_gross_exposure(strategy_id=v, ccy=w, exposure=1)
        inc_risk_check(check=v, result=w)
    set_risk_limit_utilization(limit_id=v, utilization_0_1=0.1)
    inc_risk_block(reason=v)
inc_strategy_decision(strategy_id="macd", decision="exit_long", n=0)
inc_strategy_signal(strategy_id="macd", signal="long", n=0)
inc_risk_check(check="live_limits.check_orders", result="allow", n=0)
inc_risk_block(reason="runtime:halt", n=0)
set_strategy_position_gross_exposure(strategy_id="macd", ccy="EUR", exposure=2)
set_risk_limit_utilization(limit_id="max_open_positions", utilization_0_1=0.5)
for n in [None, -1, -0.1, float("nan"), float("inf"), True, "1", b"1", 1j, 10**400, ["a"], Odd()]:
    inc_strategy_decision(strategy_id="macd", decision="exit_long", n=n)
    inc_strategy_signal(strategy_id="macd", signal="long", n=n)
    inc_risk_check(check="live_limits.check_orders", result="allow", n=n)
    inc_risk_block(reason="runtime:halt", n=n)
for v in [None, "1", b"1", True, 1j, float("nan"), 10**400, ["a"], Odd()]:
    set_strategy_position_gross_exposure(strategy_id="macd", ccy="EUR", exposure=v)
    set_risk_limit_utilization(limit_id="max_open_positions", utilization_0_1=v)
start_session_http(Odd())
"""


@pytest.mark.parametrize("broken", ["absent", "raises"])
@pytest.mark.parametrize("mode", ["A", "B"])
def test_without_the_library_every_call_is_a_no_op(mode_b: Session, mode: str, broken: str) -> None:
    if broken == "absent":
        begin = WITHOUT_LIBRARY
    else:
        (mode_b.cwd / "prometheus_client.py").write_text("raise RuntimeError('broken')")
        begin = ""
    line = mode_b.run_warned(
        f"{begin}{NO_VALUE_RAISES}{EVERY_CALL}"
        "assert start_session_http() is False\n"
        "assert rejected_total() == {}\n",
        PEAKTRADE_METRICS_MODE=mode,
    )
    assert line.startswith("telemetry cannot set up metrics: ")
    assert line.endswith("the session goes on without them")
    if broken == "absent":
        assert not mode_b.shards.exists()


def test_a_directory_that_cannot_be_made_costs_one_warning(mode_b: Session) -> None:
    mode_b.shards.write_text("a file is in the way")
    program = f"""
import os
from telemetry import *
{EVERY_CALL}
assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
from prometheus_client import Counter
Counter("theirs_total", "Not harmed.").inc()
"""
    line = mode_b.run_warned(program)
    assert line.startswith("telemetry cannot set up metrics: ")
    assert str(mode_b.shards) in line


def test_a_family_that_somebody_else_has_registered_costs_one_warning(mode_b: Session) -> None:
    line = mode_b.run_warned(
        """
import os
os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"])
from prometheus_client import Counter
theirs = Counter("peaktrade_risk_blocks_total", "Theirs.", ["reason"])
theirs.labels("runtime:halt").inc(3)
from telemetry import *
inc_risk_block(reason="runtime:halt", n=100)
theirs.labels("runtime:halt").inc(4)
""",
        PROMETHEUS_MULTIPROC_DIR=str(mode_b.shards),
    )
    assert line.startswith("telemetry cannot set up metrics: Duplicated timeseries")
    values = read_values([read_shards(mode_b.shards)["peaktrade_risk_blocks"]])
    assert values == {("peaktrade_risk_blocks_total", "runtime:halt"): 7}


@pytest.mark.parametrize("mode", ["A", "B"])
def test_no_value_raises_and_what_is_dropped_is_counted(mode_b: Session, mode: str) -> None:
    done = mode_b.run(
        f"""{NO_VALUE_RAISES}
import sys
from prometheus_client import generate_latest
for name, number in sorted(rejected_total().items()):
    print(name, number)
""",
        PEAKTRADE_METRICS_MODE=mode,
    )
    assert done.returncode == 0, done.stderr
    rejected = dict(line.split() for line in done.stdout.splitlines())
    assert set(rejected) == {
        "check", "decision", "error", "exposure", "limit_id", "n", "reason", "signal",
        "utilization_0_1",
    }  # fmt: skip
    said = done.stderr.splitlines()
    assert len(said) == len(rejected) + (mode == "A")  # and the port that is none
    assert all(line.startswith("telemetry cannot ") and len(line) < 500 for line in said)
    if mode == "B":
        values = read_values(read_shards(mode_b.shards).values())
        assert [key for key in values if key[0].endswith("_total")] == []
        assert values["peaktrade_strategy_position_gross_exposure", "macd", "EUR"] == 2
        assert values["peaktrade_risk_limit_utilization", "max_open_positions"] == 0.5


def test_a_broken_log_handler_is_not_the_end(mode_b: Session) -> None:
    mode_b.run_well("""
import logging
from telemetry import *
class Broken(logging.Handler):
    def handle(self, record): raise RuntimeError("broken")
logging.getLogger().addHandler(Broken())
inc_risk_block(reason="unheard of")
inc_risk_block(reason="runtime:halt")
""")
    assert len(read_values(read_shards(mode_b.shards).values())) == 1


def test_a_log_handler_may_count_what_it_logs(mode_b: Session) -> None:
    """It has a lock of its own, which the thread that reports a dropped value must wait for."""
    mode_b.run_well("""
import logging, threading, time
from telemetry import *
from telemetry.metrics import rejected_total
ensure_registered()
emitting = threading.Event()
class Counting(logging.Handler):
    def emit(self, record):
        if record.name == "theirs":
            emitting.set()
            while not rejected_total():
                time.sleep(0.001)
            inc_risk_block(reason="runtime:unknown")
logging.getLogger().addHandler(Counting())
log = threading.Thread(target=logging.getLogger("theirs").warning, args=("x",), daemon=True)
log.start()
emitting.wait()
drop = threading.Thread(target=inc_risk_block, kwargs={"reason": "x"}, daemon=True)
drop.start()
for thread in (log, drop):
    thread.join(20)
    assert not thread.is_alive()
""")
    assert read_values(read_shards(mode_b.shards).values()) == {
        ("peaktrade_risk_blocks_total", "runtime:unknown"): 1
    }


# --- Disk space --------------------------------------------------------------------------------


def test_the_shards_have_their_blocks_before_they_are_written(mode_b: Session) -> None:
    mode_b.run_well("from telemetry import *; ensure_registered()")
    counter, gauge = sorted(mode_b.shards.iterdir())
    assert re.fullmatch(r"counter_[0-9]+\.db", counter.name)
    assert gauge.name == counter.name.replace("counter", "gauge_livemax")
    for shard in (counter, gauge):
        assert shard.stat().st_size == 65536
        assert shard.stat().st_blocks * 512 >= 65536
    assert gauge.read_bytes() == bytes(65536)


def test_a_growing_shard_has_its_blocks_before_it_is_written(mode_b: Session) -> None:
    mode_b.run_well("""
from telemetry import *
for round in range(3):
    for i in range(120):
        inc_strategy_signal(strategy_id=f"strategy-{i}", signal="long", n=i + 1)
        set_strategy_position_gross_exposure(strategy_id=f"s{i}", ccy="EUR", exposure=i + 1)
""")
    values = read_values(read_shards(mode_b.shards).values())
    assert len(values) == 240
    for i in range(120):
        assert values["peaktrade_strategy_signals_total", f"strategy-{i}", "long"] == 3 * (i + 1)
        assert values["peaktrade_strategy_position_gross_exposure", f"s{i}", "EUR"] == i + 1
    for shard in mode_b.shards.iterdir():
        assert shard.stat().st_blocks * 512 >= shard.stat().st_size
    assert max(shard.stat().st_size for shard in mode_b.shards.iterdir()) > 2 * 65536


def test_a_shard_that_metricsd_cleared_before_its_first_use_is_made_anew(mode_b: Session) -> None:
    mode_b.run_well("""
import os, pathlib
from telemetry import *
ensure_registered()
(unused,) = pathlib.Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_*")
unused.unlink()
set_risk_limit_utilization(limit_id="max_open_positions", utilization_0_1=0.5)
""")
    (gauge,) = mode_b.shards.glob("gauge_*")
    assert gauge.stat().st_blocks * 512 >= 65536
    assert "peaktrade_risk_limit_utilization" in read_shards(mode_b.shards)


def test_a_shard_that_was_moved_away_is_not_begun_again(mode_b: Session) -> None:
    line = mode_b.run_warned("""
import os, pathlib
from telemetry import *
ensure_registered()
(counter,) = pathlib.Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("counter_*")
counter.rename(counter.with_suffix(".claimed"))
inc_strategy_signal(strategy_id="macd", signal="long")
inc_risk_check(check="live_limits.check_orders", result="allow")
""")
    assert line.startswith("telemetry cannot count an update: ")
    assert not list(mode_b.shards.glob("counter_*.db"))
    (claimed,) = mode_b.shards.glob("*.claimed")
    claimed.rename(mode_b.shards / "counter_1.db")
    assert count_checks(mode_b.shards) == 1


def run_on_small_disk(
    session: Session, size: str, program: str
) -> subprocess.CompletedProcess[str]:
    """Run with the shard directory on a tmpfs of that size, in a mount namespace of its own."""
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    session.shards.mkdir()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, session.shards, *command],
            cwd=session.cwd,
            env=session.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    if not shutil.which("unshare") or run("true").returncode:
        pytest.skip("may not mount a disk of its own, to fill it up")
    return run(*session.build_command(program))


WORK = """
for i in range(1000):
    inc_risk_check(check="live_limits.check_orders", result="allow")
    set_risk_limit_utilization(limit_id="max_open_positions", utilization_0_1=0.5)
"""


def test_a_full_disk_kills_a_session_that_does_not_ask_for_blocks(mode_b: Session) -> None:
    """The reason for all this; and the proof that the disk of the next test is really full."""
    done = run_on_small_disk(
        mode_b,
        "4k",
        """
import os
os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["PEAKTRADE_METRICS_MULTIPROC_DIR"]
from prometheus_client import Counter, Gauge
Counter("a_total", "A.").inc()
Gauge("b", "B.").set(1)
""",
    )
    assert done.returncode == -signal.SIGBUS


@pytest.mark.parametrize("size", ["4k", "64k", "100k"])
def test_a_full_disk_costs_one_warning_and_the_metrics(mode_b: Session, size: str) -> None:
    done = run_on_small_disk(
        mode_b,
        size,
        f"""
import os
from telemetry import *
{WORK}
assert os.listdir(os.environ["PEAKTRADE_METRICS_MULTIPROC_DIR"]) == []
from prometheus_client import Counter
Counter("theirs_total", "Not harmed.").inc()
""",
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("telemetry cannot set up metrics: ")
    assert "No space left on device" in line


@pytest.mark.parametrize("size", ["128k", "188k"])
def test_a_disk_that_fills_up_later_costs_the_new_series_only(mode_b: Session, size: str) -> None:
    done = run_on_small_disk(
        mode_b,
        size,
        f"""
from telemetry import *
from telemetry.metrics import rejected_total
for round in range(2):
    for i in range(120):
        inc_strategy_signal(strategy_id=f"strategy-{{i}}", signal="long")
{WORK}
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
page = generate_latest(registry).decode()
assert '{{check="live_limits.check_orders",result="allow"}} 1000.0' in page
assert '{{signal="long",strategy_id="strategy-0"}} 2.0' in page
print(rejected_total()["error"], page.count('signal="long"'))
""",
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
    dropped, kept = map(int, done.stdout.split())
    assert kept > 10
    assert dropped == 2 * (120 - kept)


def test_strategies_without_number_do_not_grow_a_session_without_bound(mode_b: Session) -> None:
    line = mode_b.run_warned("""
from telemetry import *
from telemetry import metrics
from telemetry.metrics import MAX_SERIES, rejected_total
for i in range(30_000):
    spelling = "".join(c + "/" * (i >> j & 1) for j, c in enumerate("a-long-strategy"))
    inc_strategy_signal(strategy_id=spelling, signal="long")
assert len(metrics._session.families[1].known) <= 10_000
for i in range(3000):
    set_strategy_position_gross_exposure(strategy_id=f"strategy-{i}", ccy="EUR", exposure=1)
kept = 3000 - rejected_total()["series"]
assert MAX_SERIES - 10 <= 20 + 9 + 10 * kept <= MAX_SERIES, kept
""")
    assert line.startswith("telemetry cannot count series=('strategy-")
    metrics = read_shards(mode_b.shards)
    assert sum(len(metric.samples) for metric in metrics.values()) <= 10_000
    values = read_values(metrics.values())
    assert values["peaktrade_strategy_signals_total", "a-long-strategy", "long"] == 30_000


def test_the_blocks_are_taken_where_the_file_system_cannot_preallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from telemetry.preallocate import ShardSpace

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    ShardSpace(str(tmp_path)).allocate()
    for shard in tmp_path.iterdir():
        assert shard.read_bytes() == bytes(65536)
        assert shard.stat().st_blocks * 512 >= 65536


# --- Threads, forks and kill -9 ----------------------------------------------------------------


def test_no_increment_of_any_thread_is_lost(mode_b: Session) -> None:
    mode_b.run_well("""
import sys, threading
sys.setswitchinterval(1e-6)
from telemetry import *
start = threading.Barrier(8)
def count():
    start.wait()
    for i in range(2000):
        inc_risk_check(check="live_limits.check_orders", result="allow")
        inc_strategy_signal(strategy_id=f"s{i % 30}", signal="long")
threads = [threading.Thread(target=count) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""")
    assert count_checks(mode_b.shards) == 16_000
    values = read_values([read_shards(mode_b.shards)["peaktrade_strategy_signals"]])
    assert len(values) == 30
    assert sum(values.values()) == 16_000


def test_a_forked_worker_counts_into_shards_of_its_own(mode_b: Session) -> None:
    printed = mode_b.run_well("""
import os
from telemetry import *
def fork(work):
    worker = os.fork()
    if not worker:
        work()
        os._exit(0)
    assert os.waitpid(worker, 0)[1] == 0
    return worker
def count():
    inc_risk_check(check="live_limits.check_orders", result="allow", n=5)
    inc_strategy_signal(strategy_id="new", signal="long")
for i in range(100):
    inc_strategy_signal(strategy_id=f"s{i}", signal="long")
inc_risk_check(check="live_limits.check_orders", result="allow", n=10)
counting, idle, registered = fork(count), fork(lambda: None), fork(ensure_registered)
inc_risk_check(check="live_limits.check_orders", result="allow")
print(os.getpid(), counting, registered)
""")
    assert count_checks(mode_b.shards) == 16
    pids = printed.split()
    assert {path.name for path in mode_b.shards.iterdir()} == {
        f"{prefix}_{pid}.db" for prefix in ("counter", "gauge_livemax") for pid in pids
    }
    sizes = []
    for pid in pids:
        shard = mode_b.shards / f"counter_{pid}.db"
        sizes.append(int.from_bytes(shard.read_bytes()[:4], sys.byteorder))
        assert shard.stat().st_blocks * 512 >= shard.stat().st_size
    # Registered or not, a worker begins with the series of its parent, at zero.
    assert sizes[0] == sizes[2] < sizes[1]


def test_a_fork_amid_counting_threads_leaves_a_worker_that_can_count(mode_b: Session) -> None:
    mode_b.run_well(
        """
import os, signal, sys, threading, time
sys.setswitchinterval(1e-5)
from telemetry import *
ensure_registered()
stop = False
counted = [0, 0, 0]
def count(i):
    while not stop:
        inc_risk_check(check="live_limits.check_orders", result="allow")
        counted[i] += 1
threads = [threading.Thread(target=count, args=(i,)) for i in range(3)]
for thread in threads: thread.start()
for _ in range(40):
    worker = os.fork()
    if not worker:
        signal.alarm(20)
        inc_risk_check(check="live_limits.check_orders", result="block")
        os._exit(0)
    status = os.waitpid(worker, 0)[1]
    assert status == 0, f"worker ended with {status}"
stop = True
for thread in threads: thread.join()
with open("counted", "w") as file: print(sum(counted), file=file)
""",
        "-W",
        "ignore::DeprecationWarning",
    )
    values = read_values([read_shards(mode_b.shards)["peaktrade_risk_checks"]])
    allowed = int((mode_b.cwd / "counted").read_text())
    assert values == {
        ("peaktrade_risk_checks_total", "live_limits.check_orders", "allow"): allowed,
        ("peaktrade_risk_checks_total", "live_limits.check_orders", "block"): 40,
    }


def test_a_forked_worker_without_disk_loses_only_its_metrics(mode_b: Session) -> None:
    done = run_on_small_disk(
        mode_b,
        "160k",
        f"""
import os
from telemetry import *
{WORK}
worker = os.fork()
if not worker:
    {WORK.replace(chr(10), chr(10) + "    ")}
    os._exit(0)
assert os.waitpid(worker, 0)[1] == 0
{WORK}
""",
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


def test_a_killed_session_loses_at_most_the_update_under_way(mode_b: Session) -> None:
    ledger = mode_b.cwd / "ledger"
    with subprocess.Popen(
        mode_b.build_command("""
import os
from telemetry import *
ledger = os.open("ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    os.write(ledger, b"1")
    inc_risk_check(check="live_limits.check_orders", result="allow")
"""),
        cwd=mode_b.cwd,
        env=mode_b.environ,
    ) as process:
        wait_for(lambda: ledger.exists() and ledger.stat().st_size > 1000, what="the ledger")
        process.kill()
    written = ledger.stat().st_size
    assert count_checks(mode_b.shards) in {written, written - 1}


def test_a_handler_that_raises_amid_an_update_is_heard(mode_b: Session) -> None:
    line = mode_b.run_warned("""
import signal, threading
from telemetry import *
class Interrupt(BaseException): pass
def interrupt(*_): raise Interrupt
ensure_registered()
inc_risk_check(check="live_limits.check_orders", result="unheard of")
signal.signal(signal.SIGALRM, interrupt)
heard = 0
for _ in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while True:
            inc_risk_check(check="live_limits.check_orders", result="allow")
            inc_risk_check(check="live_limits.check_orders", result="unheard of")
    except Interrupt:
        heard += 1
assert heard == 200
other = threading.Thread(target=inc_risk_block, kwargs={"reason": "runtime:halt"}, daemon=True)
other.start()
other.join(20)
assert not other.is_alive()
""")
    assert line.startswith("telemetry cannot count result='unheard of'")


# --- What is used of the library beyond its public interface -----------------------------------


@pytest.mark.parametrize("mode", ["A", "B"])
def test_the_library_still_has_what_is_used_of_it(mode_b: Session, mode: str) -> None:
    """Each has a fallback; here an upgrade that takes one away is noticed."""
    mode_b.run_well(
        f"""
from telemetry import *
from telemetry import metrics
inc_risk_check(check="live_limits.check_orders", result="allow")
checks = metrics._session.families[3]
record = checks.known["live_limits.check_orders", "allow"]
assert type(record.__self__).__name__ in ("MutexValue", "MmapedValue")
assert (metrics._session._library_lock is not None) == ({mode!r} == "B")
""",
        PEAKTRADE_METRICS_MODE=mode,
    )


def test_the_zero_series_follow_the_order_of_the_labels() -> None:
    for spec in FAMILIES:
        for values in build_zero_series(
            spec, "macd" if "strategy_id" in spec.label_names else None
        ):
            for name, value in zip(spec.label_names, values, strict=True):
                assert value == "macd" if name == "strategy_id" else value in ALLOWLISTS[name]
