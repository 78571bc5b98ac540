"""The supervisor is killed again and again, whatever it is doing: nobody is lost or doubled.

`make adopt SEED=1 KILLS=100` raises the long form.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

from stack import drop_zeros, is_gone
from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

KILLS: Final = int(os.environ.get("ADOPT_KILLS") or 0)
SEED: Final = int(os.environ.get("ADOPT_SEED") or 1)
LIFE: Final = Path(__file__).parent / "life.py"
STEADY: Final = ("s1", "s2", "s3")
ENDS: Final = ("0", "1", "3", "77", "255", "SIGKILL", "SIGTERM", "SIGSEGV")
SERIES: Final = ("peaktrade_risk_blocks_total", (("reason", "runtime:halt"),))

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper and /proc"),
    pytest.mark.timeout(120 + 8 * KILLS),
]


@dataclass
class Takeovers:
    """One stack whose supervisor is killed, and what it was seen to do."""

    stack: Stack
    random: random.Random
    seconds: list[float] = field(default_factory=list)  # until it answered `status`
    pid: int = 0

    def ask(self, verb: str, **parameters: Any) -> dict[str, Any] | None:
        """Ask the supervisor; None when it does not (or no longer) answer."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(self.stack.run_dir / "control.sock"))
                request = {"v": 1, "verb": verb, **parameters}
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline() or "null")
        except OSError:
            return None
        return answer["result"] if answer and answer["ok"] else None

    def start(self, *arguments: str) -> None:
        """Start or take over; note how long it takes until the supervisor answers."""
        former, began = self.pid, time.monotonic()

        def answers() -> bool:
            answer = self.ask("status")
            self.pid = answer["supervisor"]["pid"] if answer else former
            return self.pid != former

        with self.stack.popen("start", "-d", "--port", str(self.stack.port), *arguments) as start:
            wait_for(answers, timeout_seconds=30, what="a supervisor that answers")
            if former:
                self.seconds.append(time.monotonic() - began)
            out, err = start.communicate(timeout=60)
            assert start.returncode == 0, (out, err)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        wait_for(partial(is_gone, self.pid), what="its end")

    def status(self) -> dict[str, dict[str, Any]]:
        document = self.ask("status")
        assert document is not None
        return {session["name"]: session for session in document["sessions"]}


def find_by_session() -> dict[str, set[int]]:
    """Find whoever lives under the name of a session, whatever any supervisor knows."""
    found: dict[str, set[int]] = {}
    for process in psutil.process_iter():
        try:
            environ = process.environ()
        except psutil.Error:
            continue
        if "PTSUP_SESSION" in environ and is_alive(process.pid):
            found.setdefault(environ["PTSUP_SESSION"], set()).add(process.pid)
    return found


# -- At any moment --------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Hands short sessions over all the time, each with an end of its own."""

    takeovers: Takeovers
    directory: Path
    ends: dict[str, str] = field(default_factory=dict)  # what each will end with
    accepted: set[str] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Hand one over every 0.2 s or so, whether anybody takes it or not."""
        plan = random.Random(self.takeovers.random.random())
        while not self.over.wait(plan.uniform(0.1, 0.4)):
            name = f"x{len(self.ends)}"
            self.ends[name] = plan.choice(ENDS)
            command = [sys.executable, str(LIFE), str(self.directory), name]
            session = {
                "name": name,
                "command": [*command, f"{plan.uniform(0, 1.5):.2f}", self.ends[name]],
                "cwd": str(self.takeovers.stack.cwd),
            }
            environ = self.takeovers.stack.env
            if self.takeovers.ask("start", sessions=[session], environ=environ):
                self.accepted.add(name)

    def find_births(self, name: str) -> list[int]:
        return [int(path.suffix[1:]) for path in self.directory.glob(f"{name}.*")]

    def check(self, sessions: dict[str, dict[str, Any]], accepted: set[str]) -> tuple[int, int]:
        """Hold each end against what it was to be; give how many are known, and unknown."""
        known = unknown = 0
        for name, end in list(self.ends.items()):  # more come meanwhile
            assert len(self.find_births(name)) <= 1, f"{name} was started twice"
            session = sessions.get(name)
            if session is None:
                assert name not in accepted, f"{name} is lost"
            elif session["state"] == "exited":
                assert session["exit"] in {end, "unknown"}, (name, end, session)
                known += session["exit"] == end
                unknown += session["exit"] == "unknown"
        return known, unknown


def test_a_supervisor_killed_at_any_moment_loses_and_doubles_nobody(stack: Stack) -> None:
    takeovers = Takeovers(stack, random.Random(SEED))
    directory = stack.cwd / "lives"
    directory.mkdir()
    flags = []
    for name in STEADY:
        command = shlex.join([sys.executable, str(LIFE), str(directory), name, "9999", "9"])
        flags += ["-s", f"{name}={command}"]
    takeovers.start(*flags)
    pids = {name: takeovers.status()[name]["pid"] for name in STEADY}
    crowd = Crowd(takeovers, directory)
    thread = threading.Thread(target=crowd.run)
    thread.start()
    try:
        for _ in range(KILLS or 5):
            time.sleep(takeovers.random.uniform(0, 0.8))
            takeovers.kill()
            # Some of the crowd die while nobody is there.
            time.sleep(takeovers.random.choice([0, 0, 0.3]))
            takeovers.start()
            accepted = set(crowd.accepted)
            sessions = takeovers.status()
            assert {name: sessions[name]["pid"] for name in STEADY} == pids
            crowd.check(sessions, accepted)
            metricsd = stack.status()["metricsd"]["pid"]
            if metricsd is not None:
                os.kill(metricsd, signal.SIGKILL)
            assert SERIES in stack.counters()  # the target still answers
    finally:
        crowd.over.set()
        thread.join()
    shorts = [name for name in takeovers.status() if name not in STEADY]

    def is_over() -> bool:
        sessions = takeovers.status()
        return all(sessions[name]["state"] == "exited" for name in shorts)

    wait_for(is_over, timeout_seconds=30, what="the end of all short sessions")
    known, unknown = crowd.check(takeovers.status(), crowd.accepted)
    births = {path.name.partition(".")[0] for path in directory.iterdir()}
    assert births <= {*takeovers.status()}, "somebody is lost"
    stack.run("stop", *STEADY)
    lines = [line for path in directory.iterdir() for line in path.read_text().splitlines()]
    assert drop_zeros(stack.counters()) == {SERIES: lines.count("1")}
    median = statistics.median(takeovers.seconds)
    most = statistics.quantiles(takeovers.seconds, n=20)[-1]
    print(
        f"{len(takeovers.seconds)} takeovers: {len(shorts)} short sessions, {known} ends known, "
        f"{unknown} unknown, 0 wrong; {lines.count('1')} increments, all on the page; "
        f"to answering status: median {median * 1000:.0f} ms, 95 % within {most * 1000:.0f} ms, "
        f"longest {max(takeovers.seconds) * 1000:.0f} ms"
    )
    stack.run("stop")
    stack.assert_nothing_left()


# -- At the moment of a spawn -------------------------------------------------------------------


def test_a_supervisor_killed_within_2_ms_of_an_intent_misses_nobody(stack: Stack) -> None:
    takeovers = Takeovers(stack, random.Random(SEED))
    takeovers.start()
    found = 0
    for number in range(2 * KILLS or 8):
        names = [f"x{number}-{each}" for each in range(4)]
        sessions = [
            {"name": name, "command": ["sleep", "600"], "cwd": str(stack.cwd)} for name in names
        ]
        handing = threading.Thread(
            target=takeovers.ask,
            args=("start",),
            kwargs={"sessions": sessions, "environ": stack.env},
        )
        handing.start()
        wait_for_intent(stack.journal, takeovers.random.choice(names))
        spin(takeovers.random.uniform(0, 0.002))
        os.kill(takeovers.pid, signal.SIGKILL)
        handing.join()
        takeovers.start()
        status = takeovers.status()
        living = find_by_session()
        for name in names:
            pids = living.get(name, set())
            assert len(pids) <= 1, f"{name} was started twice: {pids}"
            recorded = {status[name]["pid"]} - {None} if name in status else set()
            assert recorded == pids, f"{name}: {pids} live, {status.get(name)} is known"
            found += len(pids)
        alive = [name for name in names if name in status]
        if alive:
            stack.run("stop", *alive)
    print(f"{2 * KILLS or 8} kills at an intent: {found} processes adopted, 0 missed")
    stack.run("stop")
    stack.assert_nothing_left()


def wait_for_intent(journal: Path, name: str) -> None:
    """Spin until it is written: a sleep would be longer than what is to be hit."""
    intent = re.compile(rf'"name": "{name}", "nonce": "[0-9a-f]')
    deadline = time.monotonic() + 20
    with journal.open() as file:
        text = ""
        while not intent.search(text):
            assert time.monotonic() < deadline, "no intent came"
            text += file.read()


def spin(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
