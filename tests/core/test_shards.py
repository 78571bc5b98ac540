"""Shard names and the names of directories that may be cleared."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.shards import find_clear_refusal, parse_shard_name

GAUGE_MODES = (
    "all",
    "liveall",
    "min",
    "livemin",
    "max",
    "livemax",
    "sum",
    "livesum",
    "mostrecent",
    "livemostrecent",
)


@pytest.mark.parametrize("kind", ["counter", "histogram", "summary"])
def test_a_kind_and_a_pid_name_a_shard(kind: str) -> None:
    assert parse_shard_name(f"{kind}_4711.db") == (kind, "", 4711)


@pytest.mark.parametrize("mode", GAUGE_MODES)
def test_a_gauge_shard_carries_its_mode(mode: str) -> None:
    assert parse_shard_name(f"gauge_{mode}_1.db") == ("gauge", mode, 1)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "counter_.db",
        "counter_0.db",
        "counter_012.db",
        "counter_-1.db",
        "counter_+1.db",
        "counter_1_2.db",
        "counter_1.db\n",
        "counter_1.DB",
        "counter_1.db.tmp",
        "counter_1",
        "Counter_1.db",
        " counter_1.db",
        "counter_\u0661.db",  # an Arabic digit one
        "counter_1\u0661.db",
        "counter_²1.db",
        "counter_1e3.db",
        "counter_2147483648.db",
        "counter_99999999999999999999.db",
        "counter_livemax_1.db",
        "gauge_1.db",
        "gauge__1.db",
        "gauge_LIVEMAX_1.db",
        "gauge_liveavg_1.db",
        "gauge_livemax_1_1.db",
        "info_1.db",
        "../counter_1.db",
    ],
)
def test_nothing_else_is_a_shard(name: str) -> None:
    assert parse_shard_name(name) is None


def test_the_highest_pid_is_a_pid() -> None:
    assert parse_shard_name("counter_2147483647.db") == ("counter", "", 2147483647)


@pytest.mark.parametrize("name", ["prom_multiproc", "prometheus_multiproc"])
def test_a_directory_of_the_right_name_may_be_cleared(name: str) -> None:
    assert find_clear_refusal(Path("/nowhere/at/all") / name) is None


@pytest.mark.parametrize(
    "name",
    ["data", "prom_multiproc2", "Prom_Multiproc", "prom_multiproc/below", "prom_multiproc/.."],
)
def test_a_directory_of_another_name_is_refused_with_its_name(name: str) -> None:
    refusal = find_clear_refusal(Path("/nowhere/at/all") / name)
    assert refusal is not None
    assert "prom_multiproc or prometheus_multiproc" in refusal


def test_the_root_directory_is_refused() -> None:
    assert find_clear_refusal(Path("/")) == "it is the root directory"


def test_the_home_directory_is_refused_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere/prom_multiproc")
    assert find_clear_refusal(Path("/nowhere/prom_multiproc")) == "it is the home directory"


def test_a_reason_is_one_line_whatever_the_name() -> None:
    refusal = find_clear_refusal(Path("/nowhere/a\nb\x1b[2J"))
    assert refusal is not None
    assert refusal.isprintable()
