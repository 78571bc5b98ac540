"""Who asks for a supervisor finds it while it lives, and nobody in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from supervisor import client
from supervisor.rundir import RunDir
from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

# It listens and holds the lock; its child has both a while longer, as between fork and exec.
LISTENER = """
import fcntl, os, socket, sys, time
lock = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1] + "/control.sock")
door.listen()
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""


def test_a_child_that_outlives_its_supervisor_for_a_moment_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    command = [sys.executable, "-c", LISTENER, str(run_dir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        connection = client.connect(run_dir)
        assert connection is not None
        connection.close()
        assert not client.lock_or_find(run_dir)
        supervisor.kill()
    assert client.connect(run_dir) is None
    assert not run_dir.lock()
    os.kill(child, 9)
    wait_for(lambda: not is_alive(child), what="the child's end")
    assert client.lock_or_find(run_dir)
    run_dir.unlock()
