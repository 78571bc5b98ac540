"""One command, then a scrape, then a stop: on real prices, with real kills."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

from stack import SHADOW, Stack, drop_zeros, read_ledgers
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = {
    "peaktrade_strategy_decisions_total",
    "peaktrade_strategy_signals_total",
    "peaktrade_strategy_position_gross_exposure",
    "peaktrade_risk_checks_total",
    "peaktrade_risk_limit_utilization",
    "peaktrade_risk_blocks_total",
}


def ledger(stack: Stack, name: str) -> Path:
    return stack.cwd / f"{name}.ledger"


def shadow(stack: Stack, name: str, *options: str) -> str:
    more = " ".join(options)
    return f"{name}={SHADOW} --strategy-id {name} --ledger {ledger(stack, name)} {more}"


def test_two_sessions_are_scraped_and_stop_leaves_nothing_twice_over(stack: Stack) -> None:
    for _ in range(2):
        stack.start(
            "-s",
            shadow(stack, "a", "--loop"),
            "-s",
            shadow(stack, "b", "--loop", "--strategy momentum"),
        )
        status = stack.status()
        assert status["supervisor"]["state"] == "running"
        assert status["metricsd"]["state"] == "running"
        assert [s["state"] for s in status["sessions"]] == ["running", "running"]
        wait_for(lambda: {name for name, _ in stack.samples()} >= FAMILIES, what="every family")
        stack.run("stop")
        stack.assert_nothing_left()
        stack.run("status", code=3)
        assert " WARNING " not in stack.read_log("supervisor")


def test_every_counter_equals_the_sum_of_the_ledgers(stack: Stack) -> None:
    names = ["a", "b", "c"]
    strategies = ["macd", "ma_crossover", "momentum"]
    flags = []
    for name, strategy in zip(names, strategies, strict=True):
        flags += ["-s", shadow(stack, name, f"--strategy {strategy}", "--speed 400")]
    stack.start(*flags)
    for name in names:
        assert stack.wait_for_state(name, "exited", timeout=40)["exit"] == "0"
    expected = read_ledgers(*(ledger(stack, name) for name in names))
    assert len(expected) > 20
    assert drop_zeros(stack.counters()) == expected
    assert drop_zeros(stack.counters()) == expected  # and stays so


def test_a_killed_session_keeps_its_counters_and_loses_its_live_gauges(stack: Stack) -> None:
    stack.start("-s", shadow(stack, "a", "--loop", "--speed 200"))
    wait_for(lambda: ledger(stack, "a").exists() and len(read_ledgers(ledger(stack, "a"))) > 8)
    assert any(name.endswith("gross_exposure") for name, _ in stack.samples())
    os.kill(stack.session("a")["pid"], signal.SIGKILL)
    ended = stack.wait_for_state("a", "exited")
    assert (ended["exit"], ended["returncode"]) == ("SIGKILL", -9)

    lines = ledger(stack, "a").read_text().splitlines(keepends=True)
    whole = read_ledgers(ledger(stack, "a"))
    less = ledger(stack, "less")
    less.write_text("".join(lines[:-1]))
    assert drop_zeros(stack.counters()) in (whole, read_ledgers(less))
    names = {name for name, _ in stack.samples()}
    assert "peaktrade_strategy_position_gross_exposure" not in names
    assert "peaktrade_risk_limit_utilization" not in names
    assert not [name for name in stack.shards if name.startswith("gauge_live")]


def test_the_session_sees_mode_b_and_absolute_directories(stack: Stack) -> None:
    out = stack.cwd / "env.json"
    code = f"import os, json; json.dump(dict(os.environ), open({str(out)!r}, 'w'))"
    stack.start(
        "--exit-when-done",
        "--",
        "python",
        "-c",
        code,
        PROMETHEUS_MULTIPROC_DIR="/elsewhere",
        PEAKTRADE_METRICS_MULTIPROC_DIR=".ops_local/prom_multiproc",
        BINANCE_API_KEY="k",
    )
    seen = json.loads(wait_for(lambda: out.read_text() if out.exists() else ""))
    assert seen["PEAKTRADE_METRICS_MODE"] == "B"
    assert seen["PEAKTRADE_METRICS_MULTIPROC_DIR"] == str(stack.multiproc_dir)
    assert seen["PROMETHEUS_MULTIPROC_DIR"] == str(stack.multiproc_dir)
    assert seen["PTSUP_SESSION"] == "python"
    assert "BINANCE_API_KEY" not in seen


def test_metricsd_alone_is_always_on_and_makes_no_shard_of_its_own(stack: Stack) -> None:
    done = stack.start(PROMETHEUS_MULTIPROC_DIR=str(stack.multiproc_dir))
    assert f"http://127.0.0.1:{stack.port}/metrics" in done.stdout
    stack.scrape()
    assert stack.status()["sessions"] == []
    assert stack.shards == []


def test_the_name_after_the_dashes_is_the_scripts_stem(stack: Stack) -> None:
    stack.start("--", *SHADOW.split(), "--loop")
    assert [s["name"] for s in stack.status()["sessions"]] == ["shadow_session"]
