"""ptsup beside supervisord, circus, honcho, runit and s6: the same static child, in one run.

SUPERVISORS_SECONDS is how long each is left alone to see what it costs then (60). It takes up to
two minutes for each and each number of children: SUPERVISORS_COUNTS and SUPERVISORS_NAMES choose.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import psutil
import pytest

from bench.peers import find_percentile, print_section, print_table, render_ms
from bench.supervisors import SUPERVISORS, MissingError, Running, build_child, wait_for_children
from stack import BIN
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable

IDLE_SECONDS: Final = float(os.environ.get("SUPERVISORS_SECONDS", "60"))
COUNTS: Final = tuple(map(int, os.environ.get("SUPERVISORS_COUNTS", "1,100,1000").split(",")))
NAMES: Final = tuple(os.environ.get("SUPERVISORS_NAMES", ",".join(SUPERVISORS)).split(","))
STABLE_SECONDS: Final = 11.0
# So many are killed, or as many as come back within the time.
DEATHS: Final = 100
DEATHS_SECONDS: Final = 30.0
FAILING: Final = 50


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build_child(tmp_path_factory.mktemp("child"))
    except MissingError as missing:
        pytest.skip(str(missing))


def read_cost(processes: Iterable[psutil.Process]) -> tuple[float, int, int]:
    """Read what processes have used: CPU seconds, wakeups, resident bytes."""
    seconds, wakeups, resident = 0.0, 0, 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
            wakeups += sum(
                int(line.split()[1])
                for status in Path(f"/proc/{process.pid}/task").glob("*/status")
                for line in status.read_text().splitlines()
                if line.startswith("voluntary_ctxt_switches")
            )
            resident += process.memory_info().rss
    return seconds, wakeups, resident


def measure_idle(running: Running) -> dict[str, str]:
    own = running.find_own()
    before = {kind: read_cost(processes) for kind, processes in own.items()}
    time.sleep(IDLE_SECONDS)
    cells = {}
    for kind, processes in own.items():
        if not processes:
            continue
        seconds, wakeups, resident = read_cost(processes)
        cells[kind] = (
            f"{100 * (seconds - before[kind][0]) / IDLE_SECONDS:.3f} % | "
            f"{(wakeups - before[kind][1]) / IDLE_SECONDS:.1f} | {resident / 1e6:.0f}"
        )
    return cells


def measure_deaths(running: Running, count: int) -> list[float]:
    """Kill one at a time; seconds from each kill to the first instruction of another."""
    found: list[float] = []
    until = time.monotonic() + DEATHS_SECONDS
    for pid, _ in running.read_told()[: min(DEATHS, count)]:
        if time.monotonic() > until:
            break
        known = len(running.read_told())
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(running.read_told()) > known, timeout_seconds=30, what="another")  # noqa: B023
        found.append(running.read_told()[known][1] - began)
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", COUNTS)
def test_the_same_children(child: Path, tmp_path: Path, count: int) -> None:
    print_section(f"{count} children", f"Left alone for {IDLE_SECONDS:g} s.")
    head = ["", "all started, s", "idle CPU", "wakeups/s", "RSS, MB", "back, ms", "p99", "deaths"]
    rows = []
    for name in NAMES:
        run = SUPERVISORS[name]
        directory = tmp_path / name
        directory.mkdir()
        told = directory / "told"
        try:
            with run(directory, f"{child} {told}", told, count) as running:
                started = wait_for_children(running, count)
                time.sleep(STABLE_SECONDS)
                idle = measure_idle(running)
                deaths = [] if name == "honcho" else measure_deaths(running, count)
        except (MissingError, AssertionError, OSError, psutil.Error) as error:
            rows.append([name, str(error)[:120], *[""] * 6])
            continue
        median = render_ms(statistics.median(deaths)) if deaths else "restarts nobody"
        p99 = render_ms(find_percentile(deaths, 99)) if deaths else ""
        cost = [cell.strip() for cell in idle["supervisor"].split("|")]
        rows.append([name, f"{started:.2f}", *cost, median, p99, str(len(deaths))])
        if "metricsd" in idle:
            cost = [cell.strip() for cell in idle["metricsd"].split("|")]
            rows.append(["its metricsd", "", *cost, "", "", ""])
    print_table(head, rows)


def time_popen(child: Path, told: Path, count: int, log: IO[bytes] | None = None) -> float:
    """Start so many and nothing else; with a log, each in a session of its own."""
    began = time.monotonic()
    children = [
        subprocess.Popen([str(child), str(told)], stdout=log, start_new_session=log is not None)
        for _ in range(count)
    ]
    seconds = time.monotonic() - began
    for process in children:
        process.kill()
        process.wait()
    return seconds


@pytest.mark.timeout(600)
def test_a_thousand_are_started_beside_bare_popen(child: Path, tmp_path: Path) -> None:
    count = max(COUNTS)
    bare: list[float] = []
    apart: list[float] = []
    for _ in range(3):
        bare.append(time_popen(child, tmp_path / "bare", count))
        with (tmp_path / "log").open("ab") as log:
            apart.append(time_popen(child, tmp_path / "bare", count, log))
    popen, leading = statistics.median(bare), statistics.median(apart)
    directory = tmp_path / "ptsup"
    directory.mkdir()
    told = directory / "told"
    with SUPERVISORS["ptsup"](directory, f"{child} {told}", told, count) as running:
        wait_for_children(running, count)
        moments = [moment for _, moment in running.read_told()]
        assert running.stack is not None
        times = []
        for _ in range(5):
            asked = time.monotonic()
            done = subprocess.run(
                [str(BIN / "ptsup"), "status", "--json"],
                cwd=directory,
                check=True,
                capture_output=True,
            )
            times.append(time.monotonic() - asked)
            assert len(json.loads(done.stdout)["sessions"]) == count
    first_to_last = max(moments) - min(moments)
    print_section(
        f"{count} started",
        "First to last child; bare: Popen in a loop, medians of 3; apart: each in a session of its "
        "own, with its output in a file.",
    )
    print_table(
        ["bare, s", "apart, s", "ptsup, s", "of bare", "of apart", "`status --json`, ms"],
        [
            [
                f"{popen:.2f} ({min(bare):.2f} … {max(bare):.2f})",
                f"{leading:.2f} ({min(apart):.2f} … {max(apart):.2f})",
                f"{first_to_last:.2f}",
                f"{first_to_last / popen:.2f}",
                f"{first_to_last / leading:.2f}",
                render_ms(statistics.median(times)),
            ]
        ],
    )


@pytest.mark.timeout(300)
def test_many_that_fail_at_once(child: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with SUPERVISORS["ptsup"](tmp_path, f"{child} {told} exit", told, FAILING) as running:
        own = running.find_own()["supervisor"]
        before, _, _ = read_cost(own)
        began = time.monotonic()
        time.sleep(60)
        seconds = time.monotonic() - began
        used = read_cost(own)[0] - before
        moments = sorted(moment for _, moment in running.read_told())[FAILING:]
        most = max(sum(at <= other < at + 1 for other in moments) for at in moments)
        assert running.stack is not None
        sessions = running.stack.status()["sessions"]
    states = {session["state"] for session in sessions}
    print_section(f"{FAILING} that fail at once", "For 60 s; spawns without the first of each.")
    print_table(
        ["retries", "most in a second", "CPU of the supervisor", "then", "reason"],
        [
            [
                str(len(moments)),
                str(most),
                f"{100 * used / seconds:.1f} %",
                ", ".join(sorted(states)),
                sessions[0]["reason"],
            ]
        ],
    )
