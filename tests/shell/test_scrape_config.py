"""The jobs that a status document comes to, and what they look like to Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.scrape_config import Target, find_targets, render_discovery, render_scrape_config

if TYPE_CHECKING:
    from pathlib import Path

STATUS: dict[str, Any] = {
    "port": {"host": "0.0.0.0", "port": 9111},
    "exporters": [
        {"name": "ai_live", "port": 9110, "path": "/metrics", "target": "up"},
        {"name": "web.2", "port": 8000, "path": "/a b?x=\"{'", "target": "up"},
        {"name": "gone", "port": 8001, "path": "/metrics", "target": "down"},
        {"name": "session", "port": 8002, "target": "up"},
    ],
    "sessions": [
        {"name": "paper", "mode": "B", "port": None, "target": "up"},
        {"name": "old", "mode": "A", "port": 9120, "target": "up"},
        {"name": "older", "mode": "A", "port": 9121, "target": "up"},
        {"name": "ended", "mode": "A", "port": 9122, "target": "down"},
    ],
}
TARGETS = [
    Target("peak_trade_metricsd", 9111),
    Target("peak_trade_ai_live", 9110),
    Target("peak_trade_web.2", 8000, "/a b?x=\"{'"),
    Target("peak_trade_session_exporter", 8002),
    Target("peak_trade_session", 9120),
    Target("peak_trade_session", 9121),
]


def test_what_is_wanted_up_and_has_a_page_is_a_target() -> None:
    assert find_targets(STATUS) == TARGETS


def test_of_a_status_without_exporters_metricsd_is_the_one_target() -> None:
    alone = {"port": {"host": "::1", "port": 7}, "exporters": [], "sessions": []}
    (found,) = find_targets(alone)
    assert found == Target("peak_trade_metricsd", 7, host="::1")
    assert found.url == "http://[::1]:7/metrics"


def test_one_job_has_all_the_targets_of_its_name() -> None:
    printed = render_scrape_config("host.docker.internal", TARGETS)
    assert printed.startswith(
        "scrape_configs:\n"
        "  - job_name: peak_trade_metricsd\n"
        "    static_configs:\n"
        '      - targets: ["host.docker.internal:9111"]\n'
    )
    assert (
        '      - targets: ["host.docker.internal:9120", "host.docker.internal:9121"]\n' in printed
    )


def test_discovery_says_the_job_and_the_path_of_each_target() -> None:
    assert json.loads(render_discovery("::1", TARGETS))[:3] == [
        {"targets": ["[::1]:9111"], "labels": {"job": "peak_trade_metricsd"}},
        {"targets": ["[::1]:9110"], "labels": {"job": "peak_trade_ai_live"}},
        {
            "targets": ["[::1]:8000"],
            "labels": {"job": "peak_trade_web.2", "__metrics_path__": "/a b?x=\"{'"},
        },
    ]


@pytest.mark.needs_prometheus
def test_promtool_accepts_both(tmp_path: Path) -> None:
    assert shutil.which("promtool")
    static = tmp_path / "static.yml"
    static.write_text(render_scrape_config("h", TARGETS))
    (tmp_path / "targets.json").write_text(render_discovery("h", TARGETS))
    discovered = tmp_path / "discovered.yml"
    discovered.write_text(
        "scrape_configs:\n  - job_name: ptsup\n    file_sd_configs:\n"
        f"      - files: [{json.dumps(str(tmp_path / 'targets.json'))}]\n"
    )
    for config in (static, discovered):
        done = subprocess.run(
            ["promtool", "check", "config", str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
