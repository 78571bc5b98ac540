"""The rules of examples/prometheus: valid, tested one by one, and about metrics that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RULES = ROOT / "examples" / "prometheus"
ALERTS = re.findall(r"- alert: (\w+)", (RULES / "alerts.yml").read_text())
TESTS = (RULES / "alerts_test.yml").read_text()


def promtool(*arguments: str, cwd: Path = RULES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.needs_prometheus
def test_the_configuration_and_its_rules_are_valid() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.needs_prometheus
def test_every_alert_fires_where_it_should_and_nowhere_else() -> None:
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs_prometheus
@pytest.mark.parametrize("broken", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_an_alert_that_never_or_always_fires_is_noticed(broken: str, tmp_path: Path) -> None:
    for name in ("recording.yml", "alerts_test.yml"):
        shutil.copy(RULES / name, tmp_path)
    rules = (RULES / "alerts.yml").read_text()
    changed, count = re.subn(r"( {8}expr: )(?:\|\n(?: {10}.*\n)+|.*\n)", rf"\g<1>{broken}\n", rules)
    assert count == len(ALERTS)
    (tmp_path / "alerts.yml").write_text(changed)
    done = promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert done.returncode != 0
    failed = set(re.findall(r"alertname: (\w+), time", done.stdout + done.stderr))
    assert failed == set(ALERTS)


def test_every_metric_in_the_rules_is_one_of_ours() -> None:
    sources = [
        path.read_text()
        for room in ("supervisor", "telemetry")
        for path in (ROOT / room).rglob("*.py")
    ]
    known = set(re.findall(r'"((?:ptsup|peaktrade)_\w+)"', "\n".join(sources)))
    known |= {f"{name}_total" for name in known}
    for file in ("alerts.yml", "recording.yml"):
        expressions = re.sub(r'"[^"]*"', "", (RULES / file).read_text())
        used = set(re.findall(r"(?<![\w:])(?:ptsup|peaktrade)_\w+", expressions))
        assert used
        assert used <= known, used - known


def test_no_rule_adds_up_counters_themselves() -> None:
    for file in ("alerts.yml", "recording.yml"):
        for line in (RULES / file).read_text().splitlines():
            if "_total" in line and "runbook:" not in line:
                assert "increase(" in line, line


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_explained(alert: str) -> None:
    assert f"`{alert}`" in (ROOT / "docs" / "alerts.md").read_text()
    assert f"alertname: {alert}\n" in TESTS
