"""Who a dead supervisor left is told from everybody else, also in its first millisecond."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from pid_namespace import NEEDS_PIDS, UNSHARE
from supervisor import kernel
from supervisor.config import SUPERVISOR
from supervisor.errors import SupervisorDeadError
from supervisor.orphans import find_former
from supervisor.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NONCE: Final = secrets.token_hex(8)  # each test process its own: the name is the machine's


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    made = RunDir(tmp_path / "run")
    made.create()
    assert made.lock()
    yield made
    made.unlock()


def test_a_child_that_is_not_in_a_session_of_its_own_yet_is_itself_and_not_its_session(
    run_dir: RunDir,
) -> None:
    # Between its fork and its exec: no nonce to be seen, and the session is the operator's.
    lock = kernel.SpawnLock(run_dir.states, NONCE).take()
    with subprocess.Popen(["env", "-i", "sleep", "600"], pass_fds=(lock,)) as child:
        os.close(lock)
        try:
            assert os.getsid(child.pid) == os.getsid(0) != child.pid
            record = {"state": "starting", "incarnation": 1, "nonce": NONCE}
            (former,) = find_former(run_dir, {"paper": record})
            assert (former.pid, former.lives) == (child.pid, True)
        finally:
            child.kill()


def test_that_session_may_have_lost_its_leader_too(run_dir: RunDir) -> None:
    lock = kernel.SpawnLock(run_dir.states, NONCE).take()
    command = ["sh", "-c", "env -i sleep 600 >/dev/null & echo $!"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, pass_fds=(lock,), start_new_session=True
    ) as operator:
        os.close(lock)
        child = int(operator.communicate()[0])
    try:
        assert os.getsid(child) == operator.pid != child
        states: dict[str, dict[str, Any]] = {
            SUPERVISOR: {"pid": 2**22, "session": operator.pid},
            "paper": {"state": "starting", "incarnation": 1, "nonce": NONCE},
        }
        (former,) = find_former(run_dir, states)
        assert (former.pid, former.lives) == (child, True)
    finally:
        os.kill(child, signal.SIGKILL)


def test_many_who_hide_are_waited_for_together(run_dir: RunDir) -> None:
    records: dict[str, dict[str, Any]] = {}
    pids: dict[str, int] = {}
    with ExitStack() as children:
        for number in range(12):
            name, nonce = f"s{number}", secrets.token_hex(8)
            records[name] = {"state": "starting", "incarnation": 1, "nonce": nonce}
            lock = kernel.SpawnLock(run_dir.states, nonce).take()
            child = subprocess.Popen(["env", "-i", "sleep", "600"], pass_fds=(lock,))
            children.enter_context(child)
            children.callback(child.kill)
            os.close(lock)
            pids[name] = child.pid
        began = time.monotonic()
        found = {former.name: former.pid for former in find_former(run_dir, records)}
        took_seconds = time.monotonic() - began
    assert found == pids
    assert took_seconds < len(pids) / 2  # one second for each of them, it was


@NEEDS_PIDS
def test_that_session_may_be_one_of_outside_the_pid_namespace() -> None:
    # As in a container that somebody entered: its leader has no pid here.
    name = test_a_child_that_is_not_in_a_session_of_its_own_yet_is_itself_and_not_its_session
    test = f"{__file__}::{name.__name__}"
    command = [*UNSHARE, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a file has no such limit")
def test_that_no_lock_can_be_looked_at_is_said_and_nobody_is_given_up(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("socket.socket", refuse)
    record = {"state": "starting", "incarnation": 1, "nonce": NONCE}
    with pytest.raises(SupervisorDeadError, match="Too many open files"):
        find_former(run_dir, {"paper": record})


def test_an_intent_whose_lock_is_free_led_to_nobody(run_dir: RunDir) -> None:
    os.close(kernel.SpawnLock(run_dir.states, NONCE).take())
    record = {"state": "starting", "incarnation": 1, "nonce": NONCE}
    (former,) = find_former(run_dir, {"paper": record})
    assert (former.pid, former.lives) == (None, False)
