"""Peek without reaping, groups and identities, on real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shortage import without_descriptors
from supervisor import kernel
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_dead(pid: int) -> bool:
    return kernel.peek(pid) is not None


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_peek_tells_the_exit_code_and_leaves_the_zombie(
    start: Callable[..., subprocess.Popen[bytes]], code: int
) -> None:
    process = start("sh", "-c", f"exit {code}")
    wait_for(partial(is_dead, process.pid))
    for _ in range(2):
        assert kernel.peek(process.pid) == kernel.Exit(code)
    assert process.wait() == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_peek_tells_the_signal(
    start: Callable[..., subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    process = start("sleep", "600")
    assert kernel.peek(process.pid) is None
    process.send_signal(number)
    wait_for(partial(is_dead, process.pid))
    assert kernel.peek(process.pid) == kernel.Exit(-number)
    assert process.wait() == -number


def test_a_stopped_child_is_not_dead(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("sleep", "600")
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: "T" in read_state(process.pid))
    assert kernel.peek(process.pid) is None


def read_state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return stat.rpartition(")")[2].split()[0]


def test_members_are_the_living_of_a_group(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("sh", "-c", "sleep 600 & sleep 600 & exit 0")
    wait_for(partial(is_dead, process.pid))
    members = kernel.find_members({process.pid})[process.pid]
    assert len(members) == 2
    assert process.pid not in members  # a zombie lives no more
    os.killpg(process.pid, signal.SIGKILL)
    wait_for(lambda: not kernel.find_members({process.pid}).get(process.pid))


def test_an_identity_is_stable_and_ends_with_the_process(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    first, second = start("sleep", "600"), start("sleep", "600")
    identity = kernel.read_identity(first.pid)
    assert identity is not None
    assert identity == kernel.read_identity(first.pid)
    assert kernel.read_identity(os.getpid()) not in {identity, None}
    first.kill()
    wait_for(partial(is_dead, first.pid))
    assert kernel.read_identity(first.pid) is None  # a zombie is dead
    first.wait()
    assert kernel.read_identity(first.pid) is None
    assert second.poll() is None


def test_a_name_with_parentheses_and_blanks_confuses_nobody(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    name = "a) Z 1 (b"
    code = f"import ctypes, time; ctypes.CDLL(None).prctl(15, {name.encode()!r}); time.sleep(600)"
    process = start(sys.executable, "-c", code)
    comm = Path(f"/proc/{process.pid}/comm")
    wait_for(lambda: comm.read_text(encoding="ascii").strip() == name)
    assert kernel.read_identity(process.pid) is not None
    assert process.pid in kernel.find_members({process.pid})[process.pid]


def test_only_the_process_of_that_identity_is_signalled(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    process = start("sleep", "600")
    identity = kernel.read_identity(process.pid)
    assert identity is not None
    kernel.signal_process(process.pid, f"1{identity}", signal.SIGKILL)
    assert kernel.peek(process.pid) is None
    kernel.signal_process(process.pid, identity, signal.SIGKILL)
    wait_for(partial(is_dead, process.pid))
    process.wait()
    kernel.signal_process(process.pid, identity, signal.SIGKILL)  # gone: no error


def test_children_are_listed(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("sleep", "600")
    assert process.pid in kernel.find_children()


@pytest.mark.skipif(sys.platform != "linux", reason="a subreaper alone has others' children")
def test_children_are_listed_without_descriptors_too(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    kernel.find_children()
    process = start("sleep", "600")
    with without_descriptors():
        assert process.pid in kernel.find_children()
    process.kill()
    process.wait()
    assert process.pid not in kernel.find_children()


def test_that_nobody_can_be_watched_leaves_no_descriptor_open(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    process = start("sleep", "600")
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        kernel.watch_exit(process.pid, "1@here")
    before = len(list(Path("/dev/fd").iterdir()))
    assert kernel.watch_exit(process.pid, "1@here") is None
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_the_peers_uid_is_read() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert kernel.read_peer_uid(here) == os.getuid()


def test_who_listens_where_is_found_and_by_which_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        listening = kernel.list_listening()
        (name,) = [key for key, address in listening.items() if address == ("127.0.0.1", port)]
        assert idle.getsockname()[1] not in {number for _, number in listening.values()}
        assert kernel.find_socket_holders({name}, [1, os.getpid()]) == {name: os.getpid()}
        assert kernel.find_socket_holders({name}, []) == {}
        assert kernel.find_socket_holders((), [os.getpid()]) == {}
    assert name not in kernel.list_listening()


@pytest.mark.skipif(sys.platform != "linux", reason="there is one way to ask")
@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("0.0.0.0", 0), ("::1", 0), ("::", 0)])
def test_a_kernel_without_sock_diag_tells_the_same(address: tuple[str, int]) -> None:
    from supervisor.kernel.listening import ask_kernel, read_proc

    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        server = socket.create_server(address, family=family)
    except OSError as error:
        pytest.skip(f"no {address[0]} here: {error}")
    with server:
        inode, wanted = str(os.fstat(server.fileno()).st_ino), server.getsockname()[:2]
        assert ask_kernel()[inode] == read_proc()[inode] == wanted


def test_the_open_files_of_a_process_are_listed_removed_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    with path.open("w") as file:
        inode = os.fstat(file.fileno()).st_ino
        assert (str(path), inode) in kernel.list_open_files(os.getpid())
        path.unlink()
        assert (str(path), inode) in kernel.list_open_files(os.getpid())
    assert (str(path), inode) not in kernel.list_open_files(os.getpid())
    assert kernel.list_open_files(2**30) == []
