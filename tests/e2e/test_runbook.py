"""Every command of the runbook, run as it is written there."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from commands import find_blocks, read_document, run_as_written
from prometheus_server import running_prometheus
from stack import ROOT, find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack


@pytest.mark.needs_prometheus
def test_the_runbook_runs_as_it_is_written(stack: Stack) -> None:
    # A clean clone has the examples; the ports are others, for whoever has those here.
    shutil.copytree(ROOT / "examples", stack.cwd / "examples", symlinks=True)
    subprocess.run(["git", "init", "-q"], cwd=stack.cwd, check=True)
    ports = {"9111": stack.port, **{port: find_free_port() for port in ("9110", "8000", "9092")}}
    stack.env["PEAK_TRADE_METRICSD_PORT"] = str(stack.port)

    def fill(text: str) -> str:
        for asked, given in ports.items():
            text = re.sub(rf"\b{asked}\b", str(given), text)
        return text

    for path in (stack.cwd / "examples").glob("*.toml"):
        path.write_text(fill(path.read_text()))
    blocks = [fill(block) for block in find_blocks(read_document("docs/runbook.md"), "sh")]
    assert len(blocks) >= 9
    said = [
        run_as_written(stack, block)
        for block in blocks
        if "verify" not in block and "stop" not in block
    ]
    assert "PEAKTRADE_METRICS_MODE=B" in "".join(said)
    assert "momentum" in "".join(said)

    jobs = stack.run("scrape-config", "--host", "127.0.0.1").stdout
    with running_prometheus(stack.cwd, jobs, port=ports["9092"]) as prometheus:
        wait_for(lambda: set(prometheus.health().values()) == {"up"}, timeout_seconds=30)
        for block in blocks:
            if "verify" in block:
                assert "RESULT=PASS" in run_as_written(stack, block)
    assert "RESULT=PASS" in (stack.cwd / "evidence.md").read_text()
    assert "stopped" in run_as_written(stack, next(block for block in blocks if "stop" in block))
    stack.assert_nothing_left()
