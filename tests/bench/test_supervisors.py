"""ptsup beside supervisord, circus, honcho, runit and s6: the same static child, in one run.

SUPERVISORS_SECONDS is how long each is left alone to see what it costs then (60). It takes up to
two minutes for each and each number of children: SUPERVISORS_COUNTS and SUPERVISORS_NAMES choose.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from bench.peers import find_percentile, print_section, print_table, render_ms
from bench.supervisors import SUPERVISORS, MissingError, Running, build_child, wait_for_children
from stack import BIN
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

IDLE_SECONDS: Final = float(os.environ.get("SUPERVISORS_SECONDS", "60"))
COUNTS: Final = tuple(map(int, os.environ.get("SUPERVISORS_COUNTS", "1,100,1000").split(",")))
NAMES: Final = tuple(os.environ.get("SUPERVISORS_NAMES", ",".join(SUPERVISORS)).split(","))
STABLE_SECONDS: Final = 11.0
# So many are killed, or as many as come back within the time.
DEATHS: Final = 100
DEATHS_SECONDS: Final = 30.0
FAILING: Final = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took: by the clock, and of the processor."""

    seconds: float
    cpu: float


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
        with contextlib.suppress(psutil.Error, OSError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                # In ns: the ticks of /proc/PID/stat are as long as what is measured.
                seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
                wakeups += sum(
                    int(line.split()[1])
                    for line in (task / "status").read_text().splitlines()
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


def start_equipped(child: Path, told: Path, number: int) -> subprocess.Popen[bytes]:
    """Start one with all that ptsup gives each, and nothing of what ptsup does: the floor."""
    lock = os.open(told.with_name(f"{number}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with told.with_name(f"{number}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(child), str(told)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(os.environ),
            cwd=told.parent,
            pass_fds=(lock,),
            start_new_session=True,
        )
    os.close(lock)
    return process


def time_starts(count: int, start: Callable[[int], subprocess.Popen[bytes]]) -> Cost:
    """Start so many and nothing else."""
    used, began = time.process_time(), time.monotonic()
    children = [start(number) for number in range(count)]
    cost = Cost(time.monotonic() - began, time.process_time() - used)
    for process in children:
        process.kill()
        process.wait()
    return cost


def start_ptsup(child: Path, directory: Path, count: int) -> tuple[Cost, list[float]]:
    """Have ptsup start so many; from the first to the last of them, and how long `status` takes."""
    told = directory / "told"
    times = []
    with SUPERVISORS["ptsup"](directory, f"{child} {told}", told, count) as running:
        wait_for_children(running, count)
        moments = [moment for _, moment in running.read_told()]
        used = read_cost(running.find_own()["supervisor"])[0]
        for _ in range(3):
            asked = time.monotonic()
            done = subprocess.run(
                [str(BIN / "ptsup"), "status", "--json"],
                cwd=directory,
                check=True,
                capture_output=True,
            )
            times.append(time.monotonic() - asked)
            assert len(json.loads(done.stdout)["sessions"]) == count
    return Cost(max(moments) - min(moments), used), times


@pytest.mark.timeout(600)
def test_a_thousand_are_started_beside_bare_popen(child: Path, tmp_path: Path) -> None:
    count = max(COUNTS)
    (tmp_path / "bare").mkdir()
    command = [str(child), str(tmp_path / "bare" / "told")]
    ways: dict[str, Callable[[int], subprocess.Popen[bytes]]] = {
        "bare Popen": lambda _: subprocess.Popen(command),
        "in a group of its own": lambda _: subprocess.Popen(command, process_group=0),
        "in a session of its own": lambda _: subprocess.Popen(command, start_new_session=True),
        "with all that ptsup gives": partial(start_equipped, child, tmp_path / "bare" / "told"),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in (*ways, "ptsup, first to last")}
    times: list[float] = []
    for turn in range(3):
        for name, start in ways.items():
            costs[name].append(time_starts(count, start))
        directory = tmp_path / f"ptsup{turn}"
        directory.mkdir()
        cost, asked = start_ptsup(child, directory, count)
        costs["ptsup, first to last"].append(cost)
        times += asked
    print_section(
        f"{count} started",
        "In a loop, in turn: medians of 3, least and most. The processor's time is the starter's; "
        f"ptsup's with its own start. `status --json`: {render_ms(statistics.median(times))} ms.",
    )
    bare = statistics.median(cost.seconds for cost in costs["bare Popen"])
    rows = []
    for name, found in costs.items():
        seconds = [cost.seconds for cost in found]
        median, processor = statistics.median(seconds), statistics.median(c.cpu for c in found)
        span = f"{median:.2f} ({min(seconds):.2f} … {max(seconds):.2f})"
        rows.append([name, span, f"{median / bare:.2f}", f"{processor:.2f}"])
    print_table(["", "s", "of bare", "processor, s"], rows)


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
