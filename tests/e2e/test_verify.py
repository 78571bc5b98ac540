"""`ptsup verify` against a real Prometheus: it passes, and names the reason of each sabotage.

Grafana is a server of ours that answers as its documentation says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from grafana_server import PASSWORD, TOKEN, USER, running_grafana
from prometheus_server import UP, running_prometheus
from stack import ROOT, SHADOW, Stack, find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from grafana_server import Grafana
    from prometheus_server import Prometheus

# One rig for all, in one worker.
pytestmark = [pytest.mark.needs_prometheus, pytest.mark.xdist_group("verify")]

AI_JOB = "peak_trade_ai_live"
# Registers, counts once, and then only waits.
SILENT = (
    f"{sys.executable} -c 'import telemetry, time; telemetry.ensure_registered(); "
    'telemetry.inc_strategy_signal(strategy_id="x", signal="long"); time.sleep(600)\''
)


@dataclass
class Rig:
    """A stack with a session, an AI live exporter, Prometheus and Grafana, all up."""

    stack: Stack
    prometheus: Prometheus
    grafana: Grafana
    wiring: str
    exporter: subprocess.Popen[bytes]

    def verify(self, *options: str, code: int = 5, **env: str) -> str:
        """Verify quickly; give what was printed, in which no credential may be."""
        given = ("--prometheus", self.prometheus.url, "--window", "1", "--timeout", "2", *options)
        done = self.stack.run("verify", *given, code=code, **env)
        assert code == 0 or "verification failed" in done.stderr
        for text in (done.stdout, done.stderr):
            assert TOKEN not in text
            assert PASSWORD not in text
        return done.stdout

    def wait_for_health(self, job: str, health: str) -> None:
        wait_for(lambda: self.prometheus.health().get(job) == health, timeout_seconds=60)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch:
        stack = Stack(tmp_path_factory.mktemp("verify"))
        try:
            stack.start("-s", f"paper={SHADOW} --loop --speed 100")
            wiring = stack.run("scrape-config", "--host", "127.0.0.1").stdout
            with (
                _running_exporter(stack) as (port, exporter),
                running_prometheus(stack.cwd, f"{wiring}{_wire(AI_JOB, port)}") as prometheus,
                running_grafana(prometheus.url) as grafana,
            ):
                made = Rig(stack, prometheus, grafana, f"{wiring}{_wire(AI_JOB, port)}", exporter)
                made.wait_for_health(AI_JOB, "up")
                made.wait_for_health("peak_trade_metricsd", "up")
                wait_for(lambda: prometheus.value("sum(peaktrade_risk_checks_total)"))
                yield made
        finally:
            stack.close()
        patch.undo()


def _wire(job: str, port: int) -> str:
    return f"  - job_name: {job}\n    static_configs:\n      - targets: ['127.0.0.1:{port}']\n"


@contextmanager
def _running_exporter(stack: Stack) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = find_free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "telemetry.ai_live", "--port", str(port), "--events", "e.jsonl"],
        cwd=stack.cwd,
        env=stack.env,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


def test_it_passes_when_all_is_up_and_values_move(rig: Rig, tmp_path: Path) -> None:
    evidence = tmp_path / "EV.md"
    printed = rig.verify(
        *("--grafana", rig.grafana.url, "--evidence", str(evidence)),
        code=0,
        PTSUP_GRAFANA_TOKEN=TOKEN,
    )
    *lines, result = printed.splitlines()
    assert result == "RESULT=PASS"
    assert all(line.startswith("PASS|") for line in lines)
    found = {line.split("|")[1] for line in lines}
    port = rig.stack.port
    assert found == {
        *("supervisor", "mode:paper", f"port:peak_trade_metricsd:{port}", "prometheus"),
        *(f"target:peak_trade_metricsd:{port}", "targets", "up-stable", "values"),
        *("families:peaktrade_strategy_*", "families:peaktrade_risk_*"),
        *("grafana", "grafana-datasource", "grafana-proxy"),
    }
    text = evidence.read_text()
    assert "**RESULT=PASS**" in text
    assert "- [ ]" not in text
    assert text.count("- [x]") == 8
    assert 'up{job="peak_trade_metricsd"}' in text
    assert "counter_" in text
    for hidden in (str(rig.stack.cwd), str(ROOT), sys.executable, TOKEN):
        assert hidden not in text


def test_as_json_it_says_the_same(rig: Rig) -> None:
    document = json.loads(rig.verify("--json", code=0))
    assert (document["schema"], document["result"]) == ("ptsup.verify/1", "PASS")
    assert all(verdict["passed"] for verdict in document["verdicts"])
    assert UP in {query["query"] for query in document["queries"]}


def test_a_user_and_a_password_and_an_older_proxy_do_as_well(rig: Rig) -> None:
    rig.grafana.has_uids = False
    try:
        env = {"PTSUP_GRAFANA_USER": USER, "PTSUP_GRAFANA_PASSWORD": PASSWORD}
        assert "PASS|grafana-proxy|" in rig.verify("--grafana", rig.grafana.url, code=0, **env)
    finally:
        rig.grafana.has_uids = True


# -- The sabotages ---------------------------------------------------------------------------------


def test_a_target_that_is_killed_is_named(rig: Rig) -> None:
    rig.exporter.kill()
    rig.exporter.wait()
    rig.wait_for_health(AI_JOB, "down")
    try:
        printed = rig.verify()
        assert f"FAIL|targets|1 of 2 targets DOWN; {AI_JOB} 127.0.0.1:" in printed
        assert "connection refused" in printed
        assert "PASS|values|" in printed
    finally:
        rig.wiring = rig.wiring.partition(f"  - job_name: {AI_JOB}")[0]
        rig.prometheus.reload(rig.wiring)
        wait_for(lambda: AI_JOB not in rig.prometheus.health(), timeout_seconds=20)


def test_a_wrong_job_name_is_named(rig: Rig) -> None:
    rig.prometheus.reload(rig.wiring.replace("peak_trade_metricsd", "metrics_d"))
    rig.wait_for_health("metrics_d", "up")
    try:
        printed = rig.verify()
        port = rig.stack.port
        assert (
            f"FAIL|target:peak_trade_metricsd:{port}|Prometheus scrapes port {port} as job "
            "'metrics_d', not as peak_trade_metricsd\n"
        ) in printed
        assert "`ptsup scrape-config`" in printed
    finally:
        rig.prometheus.reload(rig.wiring)
        rig.wait_for_health("peak_trade_metricsd", "up")
        wait_for(lambda: rig.prometheus.value(UP) == 1)


def test_a_session_in_mode_a_is_named(rig: Rig) -> None:
    rig.stack.start(
        "-s",
        f"old=env PEAKTRADE_METRICS_MODE=A PEAK_TRADE_METRICSD_PORT={find_free_port()} "
        f"{SHADOW} --loop",
    )
    try:
        printed = rig.verify()
        assert "FAIL|mode:old|the session runs in mode A (PEAKTRADE_METRICS_MODE='A')" in printed
        assert "PASS|mode:paper|" in printed
    finally:
        rig.stack.run("stop", "old", "--timeout", "2")


def test_values_that_do_not_move_are_told(rig: Rig) -> None:
    rig.stack.run("stop", "paper", "--timeout", "5")
    rig.stack.start("-s", f"silent={SILENT}")
    try:
        wait_for(lambda: rig.stack.session("silent")["shards"])
        time_series = 'peaktrade_strategy_signals_total{strategy_id="x",signal="long"}'
        wait_for(lambda: rig.prometheus.value(time_series), timeout_seconds=20)
        printed = rig.verify()
        assert "FAIL|values|no counter moved within " in printed
        assert "while silent ran" in printed
        assert "PASS|families:peaktrade_risk_*|" in printed
    finally:
        rig.stack.run("stop", "silent", "--timeout", "2")
        assert "FAIL|values|no session runs" in rig.verify()
        rig.stack.run("restart", "paper")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "it wants credentials"),
        ({"PTSUP_GRAFANA_TOKEN": f"{TOKEN}x"}, "the credentials were refused"),
    ],
)
def test_a_grafana_that_answers_401_is_told(rig: Rig, env: dict[str, str], says: str) -> None:
    printed = rig.verify("--grafana", rig.grafana.url, code=5, **env)
    assert f"FAIL|grafana-datasource|Grafana answers 401: {says}" in printed
    assert "NEXT|grafana-datasource|set PTSUP_GRAFANA_TOKEN" in printed


def test_a_wrong_data_source_is_told(rig: Rig) -> None:
    source, url = rig.grafana.source, rig.grafana.prometheus_url
    assert source is not None

    def verify() -> str:
        return rig.verify("--grafana", rig.grafana.url, PTSUP_GRAFANA_TOKEN=TOKEN)

    try:
        rig.grafana.source = None
        says = 'FAIL|grafana-datasource|Grafana has no data source named "prometheus"'
        assert says in verify()
        rig.grafana.source = {**source, "type": "loki"}
        assert "the data source \"prometheus\" is of type 'loki'" in verify()
        rig.grafana.source = source
        rig.grafana.prometheus_url = f"http://127.0.0.1:{find_free_port()}"
        assert "FAIL|grafana-proxy|the query `up` through Grafana: answers 502" in verify()
    finally:
        rig.grafana.source, rig.grafana.prometheus_url = source, url
