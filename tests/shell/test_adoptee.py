"""A process that is ours and not our child: seen to end, signalled as itself, never by number."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from shortage import without_descriptors
from supervisor import kernel
from supervisor.adoptee import Adoptee, Census
from supervisor.children import Children
from supervisor.claims import Claims
from supervisor.deaths import Deaths
from supervisor.rundir import RunDir
from telemetry.processes import is_alive, read_identity
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHILDREN: Final = Path(__file__).resolve().parent.parent / "children"
LINUX_ONLY: Final = pytest.mark.skipif(sys.platform != "linux", reason="needs pidfds")
CAN_TELL: Final = pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15),
    reason="needs PIDFD_GET_INFO with the exit status (Linux 6.15)",
)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Adoptee]]:
    """Start a process whose parent is dead, in a session of its own; adopt it."""
    made: list[Adoptee] = []

    def start(*command: str) -> Adoptee:
        nonce = os.urandom(8).hex()
        script = f'"$@" > "{tmp_path}/log" 2>&1 & echo $!'
        out = subprocess.run(
            ["setsid", "sh", "-c", f"setsid {script}", "sh", *command],
            env={**os.environ, "PTSUP_SPAWN": nonce},
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout
        pid = int(out)
        wait_for(lambda: not is_alive(pid) or os.getsid(pid) == pid, what="its own session")
        adoptee = Adoptee("a", 1, pid, nonce, read_identity(pid), Census())
        adoptee.watch()
        made.append(adoptee)
        return adoptee

    yield start
    for adoptee in made:
        for pid in adoptee.find_remains():
            psutil.Process(pid).kill()
        adoptee.let_go()


def wait_for_exit(adoptee: Adoptee) -> int | None:
    found = wait_for(adoptee.peek, what="its end")
    assert found is not None
    return found.returncode


@CAN_TELL
@pytest.mark.parametrize("code", [0, 1, 3, 127, 128, 137, 255])
def test_an_exit_code_is_told_as_it_was(
    spawn: Callable[..., Adoptee], tmp_path: Path, code: int
) -> None:
    # Whoever had ended before it was watched would have ended in a way nobody knows.
    end = tmp_path / "end"
    adoptee = spawn("sh", "-c", f"until [ -e {end} ]; do sleep 0.01; done; exit {code}")
    end.touch()
    assert wait_for_exit(adoptee) == code


@CAN_TELL
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP])
def test_a_fatal_signal_is_told_as_it_was(spawn: Callable[..., Adoptee], number: int) -> None:
    adoptee = spawn("sleep", "600")
    assert adoptee.peek() is None
    adoptee.signal_group(number)
    assert wait_for_exit(adoptee) == -number


def test_one_that_was_dead_before_ended_in_a_way_nobody_knows() -> None:
    with subprocess.Popen(["true"]) as child:
        identity = read_identity(child.pid)
        child.wait()
    adoptee = Adoptee("a", 1, child.pid, "", identity, Census())
    assert adoptee.watch() is None
    assert adoptee.peek() == kernel.Exit(None)
    assert adoptee.find_remains() == set()


@LINUX_ONLY
def test_one_is_seen_to_end_when_very_many_are_watched(spawn: Callable[..., Adoptee]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("needs 2,048 descriptors: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]  # select() ends at 1024
    try:
        adoptee = spawn("sleep", "600")
        assert adoptee.descriptor is not None
        assert adoptee.descriptor > 1024
        assert adoptee.peek() is None
        os.kill(adoptee.pid, signal.SIGKILL)
        wait_for(lambda: adoptee.peek() is not None or adoptee.is_settling, what="its end")
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@LINUX_ONLY
def test_without_the_group_flag_each_member_is_signalled(
    spawn: Callable[..., Adoptee], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel.ExitWatch, "signal_group", lambda _watch, _number: False)
    adoptee = spawn("sh", "-c", "sleep 600 & sleep 600 & wait")
    pids = wait_for(lambda: len(adoptee.find_remains()) == 3 and adoptee.find_remains())
    assert isinstance(pids, set)
    adoptee.signal_group(signal.SIGTERM)
    wait_for(lambda: not any(map(is_alive, pids)), what="the end of each")


@LINUX_ONLY
def test_a_group_is_signalled_when_its_leader_is_long_gone(
    spawn: Callable[..., Adoptee],
) -> None:
    adoptee = spawn("sh", "-c", "trap '' TERM; sleep 600 & sleep 600 & exit 3")
    wait_for(partial(adoptee.peek), what="its end")
    remains = wait_for(adoptee.find_remains)
    assert adoptee.pid not in remains
    adoptee.signal_group(signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, remains)), what="the end of its group")
    assert adoptee.find_remains() == set()


@LINUX_ONLY
def test_who_left_its_group_is_found_by_its_nonce(spawn: Callable[..., Adoptee]) -> None:
    adoptee = spawn(sys.executable, str(CHILDREN / "escapes.py"))
    remains = wait_for(lambda: len(adoptee.find_remains()) > 1 and adoptee.find_remains())
    assert isinstance(remains, set)
    adoptee.signal_group(signal.SIGTERM)
    wait_for(lambda: not any(map(is_alive, remains)), what="the end of both")


def test_a_stranger_with_the_number_of_its_group_is_not_touched() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        adoptee = Adoptee("a", 1, stranger.pid, "0" * 16, "1@another", Census())
        assert adoptee.watch() is None
        assert adoptee.find_remains() == set()
        adoptee.signal_group(signal.SIGKILL)
        assert stranger.poll() is None
        stranger.kill()


@LINUX_ONLY
def test_a_group_is_signalled_without_descriptors(spawn: Callable[..., Adoptee]) -> None:
    adoptee = spawn("sh", "-c", "sleep 600 & exec sleep 601")
    wait_for(lambda: len(adoptee.find_remains()) == 2, what="both of them")
    with without_descriptors():
        adoptee.signal_group(signal.SIGTERM)
    wait_for(lambda: not adoptee.find_remains(), what="the end of both")


@LINUX_ONLY
def test_who_gets_the_descriptor_of_one_that_was_let_go_is_heard(
    spawn: Callable[..., Adoptee], tmp_path: Path
) -> None:
    adoptee = spawn("sleep", "600")

    async def let_go_before_the_loop_is_told() -> None:
        children = Children(present={"a": adoptee})
        claims = Claims(directory=tmp_path, find_own=children.find_own, note_change=lambda: None)
        deaths = Deaths(
            run_dir=RunDir(tmp_path), children=children, claims=claims, hint=lambda: None
        )
        deaths.watch(adoptee)
        descriptor = adoptee.descriptor
        assert descriptor is not None
        adoptee.signal_group(signal.SIGKILL)
        wait_for(adoptee.peek, what="its end")
        deaths.reap("a", None)
        reading, writing = os.pipe()
        os.dup2(reading, descriptor)
        heard = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, heard.set)
        os.write(writing, b"status")
        async with asyncio.timeout(5):
            await heard.wait()
        asyncio.get_running_loop().remove_reader(descriptor)
        for each in {reading, writing, descriptor}:
            os.close(each)

    asyncio.run(let_go_before_the_loop_is_told())
