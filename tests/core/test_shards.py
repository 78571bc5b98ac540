"""Shard names and the names of directories that may be cleared."""

from __future__ import annotations

import pytest

from telemetry.shards import parse_shard_name

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
