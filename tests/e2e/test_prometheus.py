"""A real Prometheus, told what `ptsup scrape-config` prints, sees what the sessions counted."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from prometheus_server import UP, running_prometheus
from stack import ROOT, SHADOW, read_ledgers
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_server import Prometheus
    from stack import Series, Stack

pytestmark = pytest.mark.needs_prometheus


@pytest.fixture
def prometheus(stack: Stack) -> Iterator[Prometheus]:
    """Start metricsd alone, then a Prometheus that scrapes it every second."""
    stack.start()
    printed = stack.run("scrape-config", "--host", "127.0.0.1").stdout
    with running_prometheus(stack.cwd, printed) as made:
        yield made


def test_prometheus_sees_the_target_stay_and_the_series_equal_the_ledger(
    stack: Stack, prometheus: Prometheus
) -> None:
    wait_for(lambda: prometheus.value(UP) == 1, timeout_seconds=20, what="up before a session")
    ledger = stack.cwd / "ledger"
    stack.start("-s", f"paper={SHADOW} --speed 20 --duration 20 --ledger {ledger}")
    wait_for(lambda: prometheus.value("sum(peaktrade_risk_checks_total)"), timeout_seconds=20)
    assert prometheus.value(UP) == 1
    assert stack.status()["metricsd"]["last_scrape_age_seconds"] < 5
    assert stack.wait_for_state("paper", "exited", timeout=40)["exit"] == "0"

    expected = read_ledgers(ledger)
    assert expected

    def stored() -> dict[Series, float]:
        found = prometheus.query('{__name__=~"peaktrade_.+_total"}')
        return {series: value for series, value in found.items() if value}

    wait_for(lambda: stored() == expected, timeout_seconds=10, what="the ledger in Prometheus")
    # Still there, and still up, some scrapes after the session has ended.
    began = prometheus.value(f"count_over_time({UP}[5m])") or 0
    wait_for(lambda: (prometheus.value(f"count_over_time({UP}[5m])") or 0) >= began + 3)
    assert stored() == expected
    assert prometheus.value(f"min_over_time({UP}[5m])") == 1

    names = {name for name, _ in prometheus.query('{__name__=~"peaktrade_.+"}')}
    assert names >= {name for name, _ in expected}
    history = prometheus.query('max_over_time({__name__=~"peaktrade_.+"}[5m])')
    assert len(history) >= 20
    for family in (
        "peaktrade_strategy_position_gross_exposure",
        "peaktrade_risk_limit_utilization",
    ):
        assert prometheus.value(f"count(max_over_time({family}[5m]))")

    counted = sum(n for (name, _), n in expected.items() if name == "peaktrade_risk_checks_total")
    increased = prometheus.value("sum(increase(peaktrade_risk_checks_total[2m]))")
    assert increased == pytest.approx(counted, rel=0.10)


def test_stop_drains_until_prometheus_has_the_last_totals(
    stack: Stack, prometheus: Prometheus
) -> None:
    wait_for(lambda: prometheus.value(UP) == 1, timeout_seconds=20)
    ledger = stack.cwd / "ledger"
    stack.start("-s", f"paper={SHADOW} --loop --speed 50 --ledger {ledger}")
    wait_for(lambda: ledger.exists() and ledger.stat().st_size > 2000, timeout_seconds=20)
    stopped = stack.run("stop")
    assert "Prometheus scraped the last totals" in stopped.stdout
    found = prometheus.query('last_over_time({__name__=~"peaktrade_.+_total"}[5m])')
    totals = {key[1]: value for key, value in found.items() if value}
    assert totals == {key[1]: value for key, value in read_ledgers(ledger).items()}


def test_every_query_of_the_dashboard_returns_data(stack: Stack, prometheus: Prometheus) -> None:
    dashboard = json.loads((ROOT / "examples" / "grafana" / "ptsup.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"]) >= 10
    stack.start("-s", f"paper={SHADOW} --speed 100 --loop")
    values = {"$__rate_interval": "4s", "$__range": "1m", "$strategy": ".+"}

    def fill(query: str) -> str:
        for name, value in values.items():
            query = query.replace(name, value)
        assert "$" not in query
        return query

    for query in map(fill, queries):
        wait_for(partial(prometheus.query, query), timeout_seconds=20, what=query)
    # As a panel would show it: the session acts, and its rates are not nothing.
    for query in map(fill, queries):
        if "rate(peaktrade_" in query:
            moving = f"sum({query}) > 0"
            wait_for(partial(prometheus.query, moving), timeout_seconds=20, what=moving)
