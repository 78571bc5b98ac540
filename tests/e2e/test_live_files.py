"""NO-LIVE in configuration files: at start, hand-over and restart, and after an adoption."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack


def kill_supervisor(stack: Stack) -> dict[str, Any]:
    status = stack.status()
    pid = status["supervisor"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), what="the end of the supervisor")
    return status


PAPER = "[environment]\nmode = 'paper'\n[live]\nenabled = false\n"
LIVE = "[environment]\nmode = 'paper'\n[live]\nenabled = true\n"
COMMAND = "sh -c 'sleep 600' x --config=paper.toml"


def test_a_file_that_says_live_starts_nowhere(stack: Stack) -> None:
    file = stack.cwd / "paper.toml"
    file.write_text(LIVE)
    refused = stack.start("-s", f"a={COMMAND}", code=6)
    assert "cannot start a: live.enabled in paper.toml would enable live" in refused.stderr
    assert not stack.processes()

    file.write_text(PAPER)
    stack.start("-s", f"a={COMMAND}")
    file.write_text(LIVE)
    assert "live.enabled" in stack.start("-s", f"b={COMMAND}", code=6).stderr  # handed over
    stack.run("restart", "a", code=1)
    assert stack.session("a")["state"] == "fatal"
    assert "live.enabled in paper.toml" in stack.session("a")["reason"]


def test_an_adopted_session_whose_file_says_live_is_stopped_and_told(stack: Stack) -> None:
    file = stack.cwd / "paper.toml"
    file.write_text(PAPER)
    stack.start("-s", f"a={COMMAND}", "-s", "b=sleep 600")
    kill_supervisor(stack)
    file.write_text(LIVE)
    stack.start()
    session = stack.wait_for_state("a", "stopped", "fatal")
    assert "live.enabled in paper.toml" in session["reason"]
    assert stack.session("b")["state"] == "running"


def test_an_adopted_session_goes_on_when_its_file_can_no_longer_be_read(stack: Stack) -> None:
    file = stack.cwd / "paper.toml"
    file.write_text(PAPER)
    stack.start("-s", f"a={COMMAND}")
    before = kill_supervisor(stack)
    file.write_text("mode = ")
    stack.start()
    assert stack.session("a")["pid"] == before["sessions"][0]["pid"]


def test_the_list_is_extended_in_the_file_and_outlives_a_crash(stack: Stack) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        '[gates]\ndeny = ["ACME_GO*"]\n[session.a]\ncommand = "sleep 600"\n'
    )
    assert "ACME_GOING" in stack.start(code=6, ACME_GOING="1").stderr
    assert "LIVE" in stack.start(code=6, LIVE="1").stderr
    stack.start()
    assert "ACME_GO" in stack.start("-s", "b=sleep 600", code=6, ACME_GO="1").stderr
    kill_supervisor(stack)
    stack.start("-s", "b=sleep 600")  # without the file
    wait_for(lambda: stack.session("b")["state"] == "running", what="b")
    assert "--acme-go" in stack.start("-s", "c=sleep 9 --acme-go", code=6).stderr
