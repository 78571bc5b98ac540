"""The environment that a session's processes really have: read when new, and now and then again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from supervisor.drift.facts import SessionPlan
from supervisor.look.processes import ENVIRONMENT_LOOKS_APART, Crew, Member, ProcessLooker
from telemetry.mode import MODE_VARIABLE
from telemetry.processes import read_environment
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

PLANNED: Final = {MODE_VARIABLE: "B"}
# Becomes another program, or starts one, in another mode, at a word on its input.
LATE: Final = """
import os, subprocess, sys, time
word = sys.stdin.readline().strip()
other, sleep = {**os.environ, "PEAKTRADE_METRICS_MODE": "A"}, ["sleep", "600"]
if word == "exec":
    os.execvpe("sleep", sleep, other)
subprocess.run(sleep, env=other)
"""


@pytest.mark.parametrize("how", ["exec", "worker"])
def test_an_environment_that_changes_late_is_seen_within_twenty_looks(
    tmp_path: Path, how: str
) -> None:
    looker = ProcessLooker(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", LATE],
        env={**os.environ, **PLANNED},
        stdin=subprocess.PIPE,
        start_new_session=True,
    ) as session:
        crew = Crew((Member("a", 1, session.pid, "", 0.0, adopted=False),))

        def look() -> list[str | None]:
            found = looker.look_at_environments(crew, {"a": SessionPlan(variables=PLANNED)})["a"]
            return [each.variables[MODE_VARIABLE] for each in found]

        def has_changed() -> bool:
            leader = psutil.Process(session.pid)
            pids = [each.pid for each in (leader, *leader.children())]
            return any(read_environment(pid).get(MODE_VARIABLE) == "A" for pid in pids)

        try:
            wait_for(lambda: read_environment(session.pid), what="what it was given")
            assert [look() for _ in range(4)] == [["B"]] * 4
            assert session.stdin is not None
            session.stdin.write(f"{how}\n".encode())
            session.stdin.close()
            wait_for(has_changed, what="another environment")
            seen = [look() for _ in range(ENVIRONMENT_LOOKS_APART)]
            assert seen[0] == ["B"]
            assert seen[-1] == (["A"] if how == "exec" else ["B", "A"])
        finally:
            os.killpg(session.pid, signal.SIGKILL)
