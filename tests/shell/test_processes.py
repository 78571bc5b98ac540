"""Identity, life and open files of real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from shortage import without_descriptors
from telemetry import processes
from telemetry.processes import (
    find_variables,
    holds,
    is_alive,
    read_environ,
    read_environment,
    read_identity,
    read_usage,
)
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HOLDS = "import sys; f = open(sys.argv[1], 'r+b'); print('held', flush=True); sys.stdin.read()"
# Python's own mmap would keep a descriptor.
MAPS = (
    "import ctypes, sys; f = open(sys.argv[1], 'r+b');"
    "ctypes.CDLL(None).mmap(None, 4096, 1, 1, f.fileno(), ctypes.c_long(0)); f.close();"
    "print('held', flush=True); sys.stdin.read()"
)
# Its first thread ends, which makes it a zombie by its stat; the second one lives on.
HEADLESS = (
    "import ctypes, sys, threading; f = open(sys.argv[1], 'r+b');"
    "threading.Thread(target=sys.stdin.read).start(); print('held', flush=True);"
    "ctypes.CDLL(None).pthread_exit(None)"
)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str, path: Path) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "counter_7.db"
    path.write_bytes(bytes(4096))
    return path


def is_held(pid: int, path: Path) -> bool | None:
    found = path.stat()
    return holds(pid, found.st_ino, found.st_dev)


def test_the_living_are_alive_and_who_is_gone_is_not(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path
) -> None:
    process = start(HOLDS, shard)
    assert is_alive(process.pid)
    assert is_alive(os.getpid())
    process.kill()
    process.wait()
    assert not is_alive(process.pid)
    assert not is_alive(2**31 - 1)
    assert not is_alive(2**40)


def test_a_zombie_is_dead_and_holds_nothing(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path
) -> None:
    process = start(HOLDS, shard)
    process.kill()
    wait_for(lambda: not is_alive(process.pid), what="its death, before the reap")
    os.kill(process.pid, 0)  # not reaped: its pid is still taken
    assert read_identity(process.pid) is None
    assert is_held(process.pid, shard) is False


def test_who_is_reaped_at_this_moment_is_dead(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(HOLDS, shard)
    process.kill()
    look = processes._is_zombie

    def look_late(pid: int) -> bool:
        process.wait()
        return look(pid)

    monkeypatch.setattr(processes, "_is_zombie", look_late)
    assert not is_alive(process.pid)


@LINUX_ONLY
def test_who_cannot_be_looked_at_is_not_taken_for_dead(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path
) -> None:
    process = start(HOLDS, shard)
    with without_descriptors():
        assert is_alive(process.pid)
        assert read_usage(process.pid) is None
        for look in (read_identity, read_environ, read_environment):
            with pytest.raises(OSError, match="Too many open files"):
                look(process.pid)
        with pytest.raises(OSError, match="Too many open files"):
            is_held(process.pid, shard)
    assert is_held(process.pid, shard)


@LINUX_ONLY
def test_a_process_whose_first_thread_ended_is_alive(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path
) -> None:
    process = start(HEADLESS, shard)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
    assert is_alive(process.pid)
    assert read_identity(process.pid) is not None
    assert is_held(process.pid, shard) is None  # its files are not to be seen any more


@pytest.mark.parametrize("code", [HOLDS, pytest.param(MAPS, marks=LINUX_ONLY)])
def test_an_open_and_a_mapped_file_are_held_whatever_they_are_called_by_now(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path, code: str
) -> None:
    other = shard.with_name("counter_8.db")
    other.touch()
    process = start(code, shard)
    renamed = shard.rename(shard.with_name("elsewhere.db"))
    assert is_held(process.pid, renamed) is True
    assert is_held(process.pid, other) is False
    assert is_held(os.getpid(), renamed) is False


def test_the_same_inode_of_another_file_system_is_not_held(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path
) -> None:
    process = start(HOLDS, shard)
    found = shard.stat()
    assert holds(process.pid, found.st_ino, found.st_dev + 1) is False


@LINUX_ONLY
def test_what_may_not_be_seen_is_neither_held_nor_free(
    start: Callable[..., subprocess.Popen[bytes]],
    shard: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = start(HOLDS, shard)

    def refuse(_path: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "scandir", refuse)
    assert is_held(process.pid, shard) is None


def test_of_another_user_we_know_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(os.getpid())


def test_an_identity_is_one_word_and_nobody_elses(
    start: Callable[..., subprocess.Popen[bytes]], shard: Path
) -> None:
    process = start(HOLDS, shard)
    identity = read_identity(process.pid)
    assert identity is not None
    assert len(identity.split()) == 1
    assert identity == read_identity(process.pid) != read_identity(os.getpid())
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    wait_for(partial(lambda pid: read_identity(pid) is None, process.pid))


def test_the_environment_of_a_process_is_what_it_was_given() -> None:
    given = {"PLAIN": "a=b", "EMPTY": "", "ODD": "\udcff"}
    with subprocess.Popen(["sleep", "600"], env=given) as process:
        try:
            wait_for(lambda: read_environment(process.pid) == given, what="its environment")
            names = [*given, "PLAI", "LAIN", "a"]
            assert find_variables(read_environ(process.pid), names) == dict.fromkeys(names) | given
        finally:
            process.kill()
    assert read_environment(process.pid) == {}
    assert find_variables(read_environ(process.pid), ["PLAIN"]) is None


def test_of_a_variable_that_is_there_twice_the_first_counts() -> None:
    # No shell and no Popen gives one twice; execve does.
    script = (
        "import ctypes; strings = lambda *s: (ctypes.c_char_p * (len(s) + 1))(*s, None); "
        "ctypes.CDLL(None).execve(b'/bin/sleep', strings(b'sleep', b'600'), "
        "strings(b'TWICE=1', b'TWICE=2'))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            wait_for(lambda: read_environment(process.pid) == {"TWICE": "1"})
            assert find_variables(read_environ(process.pid), ["TWICE"]) == {"TWICE": "1"}
        finally:
            process.kill()


# What setproctitle does, and whoever else needs more room for a title than the arguments have.
OVERWRITES = """
import ctypes, sys, time
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 0, end - start)
ctypes.memmove(start, b"title", 5)
print("done", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is not kept in the process")
def test_an_environment_that_was_overwritten_by_a_title_tells_nothing() -> None:
    script = [sys.executable, "-c", OVERWRITES]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            assert read_environment(process.pid) == {}
            assert find_variables(read_environ(process.pid), ["PATH"]) is None
        finally:
            process.kill()


WORKS = (
    "import sys, time; held = bytearray(b'x' * (1 << 24))\n"
    "while time.process_time() < 0.2: pass\n"
    "print('held', flush=True); sys.stdin.read()"
)


def test_what_a_process_used_is_as_the_system_tells_it(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start(WORKS, tmp_path / "nothing")
    used = read_usage(process.pid)
    assert used is not None
    other = psutil.Process(process.pid)
    times = other.cpu_times()
    assert 0.1 <= used[0] <= times.user + times.system
    assert used[1] == pytest.approx(other.memory_info().rss, rel=0.01)
    process.kill()
    process.wait()
    assert read_usage(process.pid) is None
