"""The lock of a spawn: whoever inherited it has it, and nobody else; as each system has it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from supervisor import kernel
from supervisor.kernel import file_lock
from supervisor.observe import find_holders
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=[kernel.SpawnLock, file_lock.SpawnLock], ids=["ours", "file"])
def locks(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_spawn_is_locked_by_who_inherited_it_alone(locks: Any, tmp_path: Path) -> None:
    nonce = os.urandom(8).hex()
    lock, other = locks(tmp_path, nonce), locks(tmp_path, "another")
    descriptor = lock.take()
    with subprocess.Popen(["sleep", "600"], pass_fds=(descriptor,)) as child:
        os.close(descriptor)
        for _ in range(2):  # to be asked changes nothing
            assert lock.is_held()
        assert not other.is_held()
        assert other.find() is None
        found = lock.find()
        assert found is not None
        assert find_holders(*found) == {child.pid}
        child.kill()
    assert not lock.is_held()
    lock.remove()
    assert lock.find() is None


def test_a_worker_that_outlives_who_was_spawned_has_it_still(locks: Any, tmp_path: Path) -> None:
    lock = locks(tmp_path, os.urandom(8).hex())
    descriptor = lock.take()
    command = ["sh", "-c", "sleep 600 >/dev/null & echo $!"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, pass_fds=(descriptor,), check=True, text=True
    )
    os.close(descriptor)
    assert lock.is_held()
    os.kill(int(done.stdout), 9)
    wait_for(lambda: not lock.is_held(), what="the worker to be gone")


def test_it_is_closed_in_who_is_not_to_have_it(locks: Any, tmp_path: Path) -> None:
    lock = locks(tmp_path, os.urandom(8).hex())
    descriptor = lock.take()
    with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
        os.close(descriptor)
        assert not lock.is_held()
        child.kill()


def test_nobody_takes_it_twice(locks: Any, tmp_path: Path) -> None:
    lock = locks(tmp_path, os.urandom(8).hex())
    descriptor = lock.take()
    with pytest.raises(OSError, match=r"in use|exists"):
        lock.take()
    os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="files lie in the directory there")
def test_here_it_leaves_no_file_and_shows_no_nonce(tmp_path: Path) -> None:
    nonce = os.urandom(8).hex()
    lock = kernel.SpawnLock(tmp_path, nonce)
    descriptor = lock.take()
    assert not list(tmp_path.iterdir())
    with open("/proc/net/unix") as sockets:  # noqa: PTH123 - every user may read it
        shown = sockets.read()
    assert str(lock).split()[3] in shown
    assert nonce not in shown
    os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="a file is nobody's but ours")
def test_no_other_user_can_send_to_it_or_be_taken_for_who_holds_it(tmp_path: Path) -> None:
    lock = kernel.SpawnLock(tmp_path, os.urandom(8).hex())
    kinds = (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM)
    with ExitStack() as others, socket.socket(fileno=lock.take()) as held:
        for kind in kinds:
            other = others.enter_context(socket.socket(socket.AF_UNIX, kind))
            with pytest.raises(ConnectionRefusedError):
                other.connect(f"\0{lock.name}")
            if kind != held.type:  # each type has its own names
                other.bind(f"\0{lock.name}")
        found = lock.find()
        assert found is not None
        assert found[0] == os.fstat(held.fileno()).st_ino
    assert not lock.is_held()


@pytest.mark.skipif(sys.platform != "linux", reason="a file is nobody's but ours")
def test_a_name_with_line_breaks_is_taken_for_no_holder_and_harms_nobody(tmp_path: Path) -> None:
    lock = kernel.SpawnLock(tmp_path, os.urandom(8).hex())
    line = f"0: 2 0 0 0001 01 1 @{lock.name}"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(fileno=lock.take()) as held:
        found = lock.find()
        assert found is not None
        other.bind(f"\0a\n\n{line}\nb")
        assert lock.find() is None  # one of two, and nobody can know which
        held.close()
        assert not lock.is_held()


@pytest.mark.skipif(sys.platform != "linux", reason="a file has no such limit")
def test_that_no_socket_is_to_be_had_is_no_free_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("socket.socket", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        kernel.SpawnLock(tmp_path, "nonce").is_held()
