"""A ptsup stack of one test: its own working directory, port and installed `ptsup`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor import client
from supervisor.control import Request
from supervisor.errors import NothingRunsError, PtsupError
from supervisor.report import read_report
from supervisor.rundir import RunDir
from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CHILDREN = ROOT / "tests" / "children"
EXAMPLE = ROOT / "examples" / "shadow_session.py"
BIN = Path(sys.executable).parent
SHADOW = f"{sys.executable} {EXAMPLE}"

Series = tuple[str, tuple[tuple[str, str], ...]]

# Below those that the kernel takes for outgoing connections.
PORTS = range(20000, 30000)
BLOCK = 200


def find_free_port() -> int:
    """Find a port that no other test process is about to take, whoever runs tests here."""
    for port in islice(_take_block(), BLOCK):
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@cache
def _take_block() -> Iterator[int]:
    """Take some ports for as long as this process lives; each comes round again."""
    directory = Path(tempfile.gettempdir()) / f"ptsup-test-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for first in PORTS[::BLOCK]:
        descriptor = os.open(directory / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return cycle(range(first, first + BLOCK))
    raise AssertionError("every block of ports is taken")


def build_environment(**more: str) -> dict[str, str]:
    """Build a plain environment: nothing of ours, and nothing of the tests' own."""
    kept = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TERM"}
    plain = {name: value for name, value in os.environ.items() if name in kept}
    return {**plain, "PATH": f"{BIN}{os.pathsep}{plain['PATH']}", **more}


@dataclass
class Stack:
    """Runs the installed `ptsup` in a directory, and ends whatever it left."""

    cwd: Path
    bin: Path = BIN  # where the `ptsup` under test is installed
    port: int = field(default_factory=find_free_port)
    env: dict[str, str] = field(default_factory=build_environment)

    def run(
        self, *arguments: str, code: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a ptsup command to its end and check its exit code."""
        done = subprocess.run(
            [str(self.bin / "ptsup"), *arguments],
            cwd=self.cwd,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def start(self, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Start detached on this stack's port."""
        return self.run("start", "-d", "--port", str(self.port), *arguments, code=code, **env)

    def popen(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a ptsup command that stays in the foreground."""
        return subprocess.Popen(
            [str(self.bin / "ptsup"), *arguments],
            cwd=self.cwd,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def status(self, *, code: int = 0) -> dict[str, Any]:
        """Read the status document.

        Of a living supervisor as `ptsup status --json` does, but without a process for each look.
        """
        document: dict[str, Any]
        if code or self.bin != BIN:
            document = json.loads(self.run("status", "--json", code=code).stdout)
            return document
        document, answered = read_report(RunDir(self.run_dir))
        assert answered, document
        return document

    def session(self, name: str) -> dict[str, Any]:
        """Read one session of the status document."""
        return next(s for s in self.status()["sessions"] if s["name"] == name)

    def wait_for_state(self, name: str, *states: str, timeout: float = 15) -> dict[str, Any]:
        """Wait until a session is in one of these states."""
        found: dict[str, Any] = {}

        def arrived() -> bool:
            found.clear()
            found.update(self.session(name))
            return found["state"] in states

        wait_for(arrived, timeout_seconds=timeout, what=f"{name} to be {' or '.join(states)}")
        return found

    def read_log(self, name: str) -> str:
        """Read the whole log of a session; empty when it has none yet."""
        path = self.run_dir / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for_log(self, name: str, text: str) -> str:
        """Wait until a session has written that; give its whole log."""
        return wait_for(
            lambda: found if text in (found := self.read_log(name)) else "",
            what=f"{text!r} in the log of {name}",
        )

    def read_state(self, name: str) -> dict[str, Any]:
        """Read all that is recorded of one process, or of the supervisor."""
        found: dict[str, Any] = {}
        if name == "supervisor":
            found |= json.loads((self.run_dir / "state" / "supervisor.json").read_text())
            return found
        lines = self.journal.read_text().split("\n")
        for number, line in enumerate(lines, 1):
            try:
                changes = json.loads(line or "[]")
            except ValueError:
                assert number == len(lines), line  # the last may be only half written yet
                continue
            for change in changes if isinstance(changes, list) else [changes]:
                if change["name"] == name:
                    found = {} if "forgotten" in change else {**found, **change}
        return found

    @property
    def journal(self) -> Path:
        return self.run_dir / "state" / "journal.jsonl"

    def scrape(self, path: str = "/metrics") -> str:
        """Fetch the page."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()

    def samples(self) -> dict[Series, float]:
        """Scrape, and read every sample of the page."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
        }

    def counters(self) -> dict[Series, float]:
        """Scrape, and read our counters."""
        return {
            series: value
            for series, value in self.samples().items()
            if series[0].startswith("peaktrade_") and series[0].endswith("_total")
        }

    @property
    def run_dir(self) -> Path:
        return self.cwd / ".ops_local" / "ptsup"

    @property
    def multiproc_dir(self) -> Path:
        return self.cwd / ".ops_local" / "prom_multiproc"

    @property
    def shards(self) -> list[str]:
        return sorted(path.name for path in self.multiproc_dir.glob("*.db"))

    def processes(self) -> list[psutil.Process]:
        """Find every living process that was started under this working directory."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("PTSUP_SPAWN") or "ptsup" in process.name()
                lives = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
                if mine and lives and process.cwd().startswith(str(self.cwd)):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def assert_nothing_left(self) -> None:
        """Hold what `stop` promises: no process, socket, shard or state; the port free."""
        assert not self.processes()
        assert not self.shards
        left = [str(path) for path in self.run_dir.rglob("*") if path.parent.name != "logs"]
        assert left in ([], [str(self.run_dir / "logs")]), left
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", self.port))
        if self.bin != BIN:
            self.run("status", code=3)
        else:
            with pytest.raises(NothingRunsError):
                read_report(RunDir(self.run_dir))

    def close(self) -> None:
        """End the stack, by pid where it does not end itself."""
        # After a stop there are logs alone.
        if any(path.name != "logs" for path in self.run_dir.glob("*")):
            self._stop()
        for process in self.processes():
            process.kill()

    def _stop(self) -> None:
        """Stop as `ptsup stop` does; the command itself where no supervisor answers."""
        run_dir = RunDir(self.run_dir)
        connection, own = client.connect(run_dir), run_dir.read_own()
        if connection is None:
            self.run("stop", "--timeout", "2", code=None)
            return
        request = Request("stop", {"timeout_seconds": 2, "drain_seconds": 0, "keep_shards": False})
        with contextlib.suppress(PtsupError):  # it is ended below
            client.ask(connection, request, 60)
            client.wait_until_gone(own.get("pid", -1), own.get("identity"), 10)


def child(name: str, *arguments: str) -> str:
    """Build the command of one of the tests' own little programs."""
    return " ".join([sys.executable, str(CHILDREN / f"{name}.py"), *arguments])


def is_gone(pid: int) -> bool:
    """Whether a process has ended with all its threads, reaped or not by whoever inherited it."""
    return not is_alive(pid)


def is_reaped(pid: int) -> bool:
    """Whether it has been reaped too."""
    return not psutil.pid_exists(pid)


def read_ledgers(*paths: Path) -> Counter[Series]:
    """Add up what ledgers say was counted, per series."""
    total: Counter[Series] = Counter()
    for path in paths:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            total[entry["metric"], tuple(sorted(entry["labels"].items()))] += entry["n"]
    return total


def drop_zeros(counters: dict[Series, float]) -> dict[Series, float]:
    """Leave out the series that only say that they exist."""
    return {series: value for series, value in counters.items() if value}
