"""`ptsup status` as a cold process, beside Debian's `supervisorctl status`, in one run."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from stack import BIN, Stack
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUNS = 15
CHILDREN = 10


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    flags = [word for number in range(CHILDREN) for word in ("-s", f"s{number}=sleep 600")]
    made.start(*flags)
    yield made
    made.close()


@pytest.fixture
def supervisorctl(tmp_path: Path) -> Iterator[list[str]]:
    if shutil.which("supervisord") is None:
        pytest.skip("needs supervisord: apt-get install --no-install-recommends supervisor")
    programs = "".join(
        f"[program:s{number}]\ncommand=sleep 600\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
        for number in range(CHILDREN)
    )
    config = tmp_path / "supervisord.conf"
    config.write_text(
        f"[unix_http_server]\nfile={tmp_path}/s.sock\n"
        f"[supervisord]\nlogfile={tmp_path}/s.log\npidfile={tmp_path}/s.pid\nnodaemon=true\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[supervisorctl]\nserverurl=unix://{tmp_path}/s.sock\n{programs}"
    )
    daemon = subprocess.Popen(
        ["supervisord", "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    command = ["supervisorctl", "-c", str(config), "status"]

    def answers() -> bool:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.count("RUNNING") == CHILDREN

    wait_for(answers, timeout_seconds=20, what="supervisord")
    yield command
    daemon.terminate()
    daemon.wait()


def time_command(command: list[str], cwd: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - began


def test_a_cold_status(stack: Stack, supervisorctl: list[str]) -> None:
    commands = {
        "ptsup status": [str(BIN / "ptsup"), "status"],
        "ptsup status --json": [str(BIN / "ptsup"), "status", "--json"],
        "supervisorctl status": supervisorctl,
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(time_command(command, stack.cwd))
    theirs = statistics.median(times["supervisorctl status"])
    print(f"\n| command, {CHILDREN} children | median ms | min | max | of supervisorctl |")
    print("|---|---:|---:|---:|---:|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"| `{name}` | {median * 1e3:.0f} | {min(seconds) * 1e3:.0f} | "
            f"{max(seconds) * 1e3:.0f} | {median / theirs:.2f} |"
        )
