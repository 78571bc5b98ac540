"""The runbook's local targets from one file: up in a real Prometheus, and named when down."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest

from prometheus_server import running_prometheus
from stack import BIN, ROOT, find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

pytestmark = pytest.mark.needs_prometheus


def test_the_full_stack_is_up_in_prometheus_and_a_killed_exporter_is_named(stack: Stack) -> None:
    examples = stack.cwd / "examples"
    examples.mkdir()
    for name in ("shadow_session.py", "data"):
        (examples / name).symlink_to(ROOT / "examples" / name)
    ai_port, web_port = find_free_port(), find_free_port()
    text = (ROOT / "examples" / "full_stack.toml").read_text()
    for asked, given in (("9111", stack.port), ("9110", ai_port), ("8000", web_port)):
        text = text.replace(f"port = {asked}", f"port = {given}")
        text = text.replace(f'"{asked}"', f'"{given}"')
    (examples / "full_stack.toml").write_text(text)
    # What the runbook does before it starts the exporter.
    out = stack.cwd / "logs" / "ai" / "ai_events.jsonl"
    out.parent.mkdir(parents=True)
    out.write_text('{"v":1,"decision":"accept","action":"submit"}\n' * 5)

    file = ("-f", "examples/full_stack.toml")
    stack.run("start", "-d", *file)
    status = stack.status()
    assert {s["name"]: s["state"] for s in status["sessions"]} == {
        "macd": "running",
        "momentum": "running",
    }
    printed = stack.run("scrape-config", "--host", "127.0.0.1").stdout
    assert "job_name: peak_trade_ai_live\n" in printed
    with running_prometheus(stack.cwd, printed) as prometheus:
        every = dict.fromkeys(("peak_trade_metricsd", "peak_trade_ai_live", "peak_trade_web"), "up")
        wait_for(lambda: prometheus.health() == every, timeout_seconds=30)
        with urllib.request.urlopen(f"http://127.0.0.1:{web_port}/events", timeout=10) as events:
            sent = next(line for line in events if line.startswith(b'data: {"public"'))
        assert b'"momentum"' in sent
        wait_for(lambda: prometheus.value("sum(peaktrade_ai_decisions_total)") == 5)
        verify = ("verify", "--prometheus", prometheus.url, "--window", "1")
        verified = stack.run(*verify).stdout
        assert f"PASS|target:peak_trade_ai_live:{ai_port}|" in verified
        assert verified.endswith("RESULT=PASS\n")

        stack.run("stop", "ai_live", "--timeout", "5")
        wait_for(lambda: prometheus.health()["peak_trade_ai_live"] == "down", timeout_seconds=20)
        failed = stack.run(*verify, code=5).stdout
        assert "FAIL|targets|1 of 3 targets DOWN; peak_trade_ai_live 127.0.0.1:" in failed


def test_before_anything_runs_the_jobs_are_those_of_the_file(stack: Stack) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        f"port = 1234\n[exporter.web]\ncommand = ['{BIN}/python']\nport = 8000\npath = '/m'\n"
        "[session.old]\ncommand = 'python old.py'\nmode = 'A'\nport = 9120\n"
    )
    printed = stack.run("scrape-config").stdout
    for line in ("host.docker.internal:1234", "host.docker.internal:8000", 'metrics_path: "/m"'):
        assert line in printed
    assert (
        'job_name: peak_trade_session\n    static_configs:\n      - targets: ["host.docker'
        in printed
    )
