"""Hostile names, labels and paths reach no terminal and no page as they are."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

from stack import Stack
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "\x1b[31m\x07\x9b2J\u202e{0}'\"\r"
COMMANDING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
WRITER = r"""
import sys, time
from prometheus_client import Counter, Gauge
hostile = sys.argv[1]
print(hostile)
counter = Counter("peaktrade_risk_blocks", "help", ["reason"])
for value in (hostile, "\n" + hostile, "x" * 65536, '{0}"quoted\\'):
    counter.labels(value).inc()
def gauge(name, help, value):
    Gauge(name, help, ["ccy"], multiprocess_mode="livemax").labels(value).set(1)
gauge("a_gauge", "help", hostile)
gauge("b_gauge", hostile, "EUR")
gauge("good_gauge", 'a "help" \\ {0}', '{0}"\n')
print("written", flush=True)
time.sleep(600)
"""


def test_a_hostile_name_reaches_no_terminal_and_no_page_as_it_is(tmp_path: Path) -> None:
    cwd = tmp_path / f"a{HOSTILE}\nb"
    cwd.mkdir()
    stack = Stack(cwd)
    (cwd / "writer.py").write_text(WRITER)
    command = [sys.executable, "writer.py", HOSTILE, "y" * 65536]
    (cwd / "ptsup.toml").write_text(
        f"port = {stack.port}\n[session.a]\ncommand = {json.dumps(command)}\n"
        f"[session.b]\ncommand = ['sleep', '600']\ncwd = {json.dumps(str(tmp_path / HOSTILE))}\n"
    )
    (tmp_path / HOSTILE).mkdir()

    def run(*arguments: str, code: int | None = None) -> str:
        done = stack.run(*arguments, code=code)
        output = done.stdout + done.stderr
        found = COMMANDING.search(output)
        assert found is None, (arguments, output[max(0, found.start() - 80) : found.end() + 80])
        return output

    try:
        run("start", "-d", code=0)
        wait_for(lambda: "written" in run("logs", "a"), what="shards")
        (tmp_path / HOSTILE).rmdir()
        run("restart", "b", code=1)
        for arguments in (
            ["status"],
            ["status", "--json"],
            ["logs", "a", "supervisor", "metricsd"],
            ["doctor"],
            ["doctor", "--json"],
            ["drift"],
            ["scrape-config", "--host", HOSTILE],
            ["init", "--systemd"],
            ["init", "--launchd"],
            ["stop", HOSTILE],
            ["restart", HOSTILE],
            ["status", HOSTILE],
            ["logs", HOSTILE],
            ["start", "-d", "-s", f"{HOSTILE}=sleep 1"],
            ["start", "-d", "-s", f"c={HOSTILE}"],
            ["start", "-d", "-s", "c=sleep 1 '\x1b[31m' --live=\x1b[31m"],
            ["start", "-d", "-f", HOSTILE],
            ["start", "-d", "--multiproc-dir", HOSTILE],
            ["start", "-d", "--run-dir", HOSTILE],
            ["start", "-d", "--port", HOSTILE],
            ["start", "--restart", HOSTILE],
            ["status", "--run-dir", HOSTILE],
            ["status", f"--{HOSTILE}"],
            [HOSTILE],
        ):
            run(*arguments)
        page = stack.scrape()
        found = COMMANDING.search(page)
        assert found is None, page[max(0, found.start() - 80) : found.end() + 80]
        assert 'good_gauge{ccy="{0}\\"\\n"} 1.0' in page
        assert "a_gauge{" not in page
        assert "b_gauge{" not in page
        assert "x" * 65536 in page
        assert COMMANDING.search(stack.scrape("/healthz")) is None
        run("stop", "--timeout", "2", code=0)
    finally:
        stack.close()
