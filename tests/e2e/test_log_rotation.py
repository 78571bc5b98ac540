"""Sessions write, supervisors die, logs are rotated and removed: every line is there exactly once.

The short form has one session and one death. `make logs` has four, of 10 MB/s each, through 20
rotations of each and 5 deaths, and prints its figures.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from supervisor.config import LogLimits
from supervisor.copies import find_front, list_copies
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack import Stack

LONG: Final = bool(os.environ.get("PTSUP_LOGS_LONG"))
SESSIONS: Final = 4 if LONG else 1
DEATHS: Final = 5 if LONG else 1
# A long run has 20 rotations of each.
BYTES: Final = (21 if LONG else 3) * LogLimits().max_bytes + 1_000_000
RATE: Final = 10e6 if LONG else 15e6
BOUND: Final = 2 * LogLimits().max_bytes
WRITER: Final = Path(__file__).parents[1] / "children" / "writes_lines.py"


def keep(stack: Stack, kept: Path) -> None:
    """Keep every copy under a second name, as somebody who archives them would."""
    for path in stack.run_dir.glob("logs/s*.log.*"):
        if path.suffix[1:].isdigit() and not (kept / path.name).exists():
            os.link(path, kept / path.name)


def read_numbers(log: Path, kept: Path) -> Iterator[int]:
    """Read the number of each line, in order: of the copies that were kept, then of the log."""
    copies = sorted(kept.glob(f"{log.name}.*"), key=lambda path: int(path.suffix[1:]))
    for copy in copies:
        with copy.open("rb") as file:
            yield from (int(line[:12]) for line in file)
    with log.open("rb") as file:
        file.seek(find_front(file.fileno(), list_copies(log)).first)
        yield from (int(line[:12]) for line in file)


@pytest.mark.timeout(300)
def test_every_line_is_there_once_through_rotations_and_deaths(
    stack: Stack, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    names = [f"s{number}" for number in range(SESSIONS)]
    sessions = [f"{name}={sys.executable} {WRITER} {RATE} {BYTES}" for name in names]
    stack.start(*(word for session in sessions for word in ("-s", session)))
    logs = [stack.run_dir / "logs" / f"{name}.log" for name in names]
    deaths, highest, quiet_until = 0, 0, 0.0
    while not all(session["state"] == "exited" for session in stack.status()["sessions"]):
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            keep(stack, kept)
            if time.monotonic() > quiet_until:
                highest = max(highest, *(log.stat().st_blocks * 512 for log in logs))
            time.sleep(0.02)
        done = min(log.stat().st_size for log in logs) / BYTES
        if deaths < DEATHS and done > (deaths + 1) / (DEATHS + 2):
            os.kill(stack.status()["supervisor"]["pid"], signal.SIGKILL)
            time.sleep(0.3)
            stack.run("start", "-d")
            deaths += 1
            quiet_until = time.monotonic() + 2.0  # it catches up on what was written meanwhile
    keep(stack, kept)
    limit = LogLimits().max_bytes + 8192
    wait_for(lambda: all(log.stat().st_blocks * 512 <= limit for log in logs))  # the last one
    keep(stack, kept)
    lines = 0
    for log in logs:
        rotations = len(list(kept.glob(f"{log.name}.*")))
        for expected, number in enumerate(read_numbers(log, kept)):
            assert number == expected, (log.name, expected, number)
            lines += 1
        assert rotations >= (20 if LONG else 2)
    assert lines == SESSIONS * (BYTES // 128)
    assert deaths == DEATHS
    assert highest <= BOUND
    print(
        f"{SESSIONS} sessions, {lines} lines, {len(list(kept.iterdir()))} copies, {deaths} deaths: "
        f"each line once; a log took at most {highest / 2**20:.1f} MiB (bound {BOUND >> 20} MiB)"
    )


def test_a_foreground_on_hold_and_logs_show_every_line_once_over_rotations(stack: Stack) -> None:
    total = 3_000_000
    # A session of the command line goes by what the file says for all.
    (stack.cwd / "short.toml").write_text('log = { max_bytes = "128K", backups = 100 }')
    session = f"s=sh -c '{sys.executable} {WRITER} 5e6 {total}; exec sleep 600'"
    running = stack.popen(*("start", "--port", str(stack.port), "-f", "short.toml", "-s", session))
    # Nobody reads what it shows: it stands still while the log is rotated away under it.
    wait_for(lambda: len(list(stack.run_dir.glob("logs/s.log.*"))) >= 20, timeout_seconds=30)
    assert running.stdout is not None
    expected = [f"{number:012d}" for number in range(total // 128)]
    seen: list[str] = []
    for line in iter(running.stdout.readline, ""):
        seen += [line[4:16]] if line.startswith("s | ") else []
        if seen and seen[-1] == expected[-1]:
            break
    assert seen == expected
    again = stack.run("logs", "s", "-n", str(total)).stdout.splitlines()
    assert [line[4:16] for line in again] == expected
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=15)
    assert running.returncode == 0, err


def test_a_removed_log_is_found_with_what_mends_it(stack: Stack) -> None:
    def find() -> list[tuple[str, str]]:
        drift = stack.status()["drift"]
        return [(f["subject"], f["hint"]) for f in drift if f["kind"] == "log-unrotatable"]

    talks = "while :; do echo I am here; sleep 0.1; done"
    stack.start("-s", f"s=sh -c '{talks}'")
    stack.wait_for_log("s", "here")
    (stack.run_dir / "logs" / "s.log").unlink()
    ((subject, hint),) = wait_for(find, what="the finding")
    assert subject == "s"
    assert hint.startswith("`ptsup restart s` ")
    stack.run("restart", "s")
    stack.wait_for_log("s", "here")
    wait_for(lambda: not find(), what="nothing to be found")
