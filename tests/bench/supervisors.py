"""Supervisors that are measured side by side: how each is installed, configured and started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from stack import Stack
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHILD: Final = "ptsup-child"
# Each in an environment of its own, made once; what is compared may need other versions.
CACHE: Final = Path(tempfile.gettempdir()) / f"ptsup-bench-{os.getuid()}"


class MissingError(Exception):
    """A peer that this machine cannot run, and why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A supervisor at work on so many children, each of which told its beginning in `told`."""

    root: int
    told: Path
    began: float  # CLOCK_MONOTONIC, just before it was started
    stack: Stack | None = None

    def read_told(self) -> list[tuple[int, float]]:
        """Read the pid and the first moment of every child so far."""
        if not self.told.exists():
            return []
        words = [line.split() for line in self.told.read_text().splitlines()]
        return [(int(pid), int(moment) / 1e9) for pid, moment in words]

    def find_own(self) -> dict[str, list[psutil.Process]]:
        """Find the supervisor's processes, without the children; metricsd apart."""
        root = psutil.Process(self.root)
        own: dict[str, list[psutil.Process]] = {"supervisor": [root], "metricsd": []}
        for process in root.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.name() == CHILD:
                    continue
                kind = "metricsd" if "telemetry.metricsd" in process.cmdline() else "supervisor"
                own[kind].append(process)
        return own


def build_child(directory: Path) -> Path:
    """Compile the child, static; raises MissingError."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingError(
            "needs a C compiler: apt-get install --no-install-recommends gcc libc6-dev"
        )
    built = directory / CHILD
    source = Path(__file__).with_name("child.c")
    subprocess.run([compiler, "-O2", "-static", "-o", str(built), str(source)], check=True)
    return built


def _find_installed(package: str, program: str) -> str:
    """Find a program of PyPI in an environment of its own, which is made when it is not there."""
    environment = CACHE / package
    if not (environment / "bin" / program).exists():
        commands = (
            [sys.executable, "-m", "venv", str(environment)],
            [str(environment / "bin" / "pip"), "install", "-q", package],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                raise MissingError(f"cannot install {package}: {last[:100]}")
    return str(environment / "bin" / program)


def _find_program(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise MissingError(f"not installed: apt-get install --no-install-recommends {package}")
    return found


@contextlib.contextmanager
def _running(command: list[str], cwd: Path, told: Path, stop: signal.Signals) -> Iterator[Running]:
    began = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        command, cwd=cwd, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        yield Running(process.pid, told, began)
    finally:
        family = []
        with contextlib.suppress(psutil.Error):  # it may have ended by itself
            family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for left in family:
            with contextlib.suppress(psutil.Error):
                left.kill()
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_ptsup(directory: Path, command: str, told: Path, count: int) -> Iterator[Running]:
    sessions = (
        f'[session.s{number}]\ncommand = "{command}"\nrestart = "always"\n'
        for number in range(count)
    )
    (directory / "ptsup.toml").write_text("".join(sessions))
    stack = Stack(directory)
    began = time.monotonic()
    stack.start()
    try:
        yield Running(stack.status()["supervisor"]["pid"], told, began, stack)
    finally:
        stack.close()


@contextlib.contextmanager
def running_supervisord(directory: Path, command: str, told: Path, count: int) -> Iterator[Running]:
    program = _find_installed("supervisor", "supervisord")
    config = directory / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nlogfile={directory}/s.log\npidfile={directory}/s.pid\nnodaemon=true\n"
        f"minfds=8192\n[program:s]\ncommand={command}\nprocess_name=s%(process_num)d\n"
        f"numprocs={count}\nautorestart=true\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
    )
    with _running([program, "-c", str(config)], directory, told, signal.SIGTERM) as running:
        yield running


@contextlib.contextmanager
def running_circus(directory: Path, command: str, told: Path, count: int) -> Iterator[Running]:
    program = _find_installed("circus", "circusd")
    config = directory / "circus.ini"
    config.write_text(
        f"[circus]\nendpoint=ipc://{directory}/e\npubsub_endpoint=ipc://{directory}/p\n"
        f"[watcher:s]\ncmd={command}\nnumprocesses={count}\nwarmup_delay=0\n"
    )
    with _running([program, str(config)], directory, told, signal.SIGTERM) as running:
        yield running


@contextlib.contextmanager
def running_honcho(directory: Path, command: str, told: Path, count: int) -> Iterator[Running]:
    program = _find_installed("honcho", "honcho")
    lines = (f"s{number}: exec {command}\n" for number in range(count))
    (directory / "Procfile").write_text("".join(lines))
    with _running([program, "start"], directory, told, signal.SIGTERM) as running:
        yield running


def _write_services(directory: Path, command: str, count: int) -> Path:
    services = directory / "services"
    for number in range(count):
        run = services / f"s{number}" / "run"
        run.parent.mkdir(parents=True)
        run.write_text(f"#!/bin/sh\nexec {command}\n")
        run.chmod(0o755)
    return services


@contextlib.contextmanager
def running_runit(directory: Path, command: str, told: Path, count: int) -> Iterator[Running]:
    program = _find_program("runsvdir", "runit")
    services = _write_services(directory, command, count)
    with _running([program, str(services)], directory, told, signal.SIGHUP) as running:
        yield running


@contextlib.contextmanager
def running_s6(directory: Path, command: str, told: Path, count: int) -> Iterator[Running]:
    program = _find_program("s6-svscan", "s6")
    services = _write_services(directory, command, count)
    arguments = [program, "-c", str(count + 10), str(services)]
    with _running(arguments, directory, told, signal.SIGTERM) as running:
        yield running


SUPERVISORS: Final[
    dict[str, Callable[[Path, str, Path, int], contextlib.AbstractContextManager[Running]]]
] = {
    "ptsup": running_ptsup,
    "supervisord": running_supervisord,
    "circus": running_circus,
    "honcho": running_honcho,
    "runit": running_runit,
    "s6": running_s6,
}


def wait_for_children(running: Running, count: int) -> float:
    """Wait until so many have told; seconds from the supervisor's start to the last of them."""
    wait_for(lambda: len(running.read_told()) >= count, timeout_seconds=120, what="the children")
    return running.read_told()[count - 1][1] - running.began
