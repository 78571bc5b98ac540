"""What is ours is ours alone: another user cannot ask, read, or slip anything in."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from another_user import NOBODY, as_another_user, needs_root
from stack import SHADOW, Stack
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hushhush99"
# What a client sees that is not answered.
CLOSED = {"", "ConnectionResetError", "BrokenPipeError"}


def is_refused(answer: str) -> bool:
    """Whether a client was told no more than that it is somebody else's supervisor."""
    told = (
        '{"v":1,"ok":false,"error":{"message":"this supervisor belongs to another user",'
        '"hint":"","exit_code":1}}\n'
    )
    return answer in {told, *CLOSED}


@pytest.fixture
def open_stack() -> Iterator[Stack]:
    """A stack where everybody may enter, so that nothing but its own modes keeps them out."""
    cwd = Path(tempfile.mkdtemp(prefix="ptsup-test-"))
    cwd.chmod(0o755)
    made = Stack(cwd)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(cwd, ignore_errors=True)


def ask(path: Path) -> str:
    """Ask the control socket for the status; what comes back, if anything does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(b'{"v": 1, "verb": "status"}\n')
        return connection.makefile("rb").readline().decode()


def take_listener(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        _, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        return str(len(descriptors))


def read(path: Path) -> str:
    return path.read_bytes().hex()


def read_all(top: Path) -> str:
    return "".join(path.read_text() for path in top.rglob("*") if path.is_file())


@needs_root
def test_another_user_can_neither_ask_nor_read(open_stack: Stack) -> None:
    stack = open_stack
    stack.start("-s", f"a={SHADOW} --loop")
    wait_for(lambda: stack.shards, what="shards")
    run_dir = stack.run_dir
    control, handback = run_dir / "control.sock", run_dir / "handback.sock"
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "supervisor.json", "a.log", "supervisor.log", "metrics.prom"} <= {
        path.name for path in files
    }
    for path in (control, handback):
        assert as_another_user(partial(ask, path)) == "PermissionError"
    for path in (*files, *stack.multiproc_dir.glob("*.db")):
        assert as_another_user(partial(read, path)) == "PermissionError"
    assert as_another_user(lambda: str(list(stack.multiproc_dir.iterdir()))) == "PermissionError"

    # And not where somebody has loosened a mode either.
    for directory in (run_dir, run_dir / "state", run_dir / "logs"):
        directory.chmod(0o755)
    for path in (control, handback):
        path.chmod(0o666)
    assert is_refused(as_another_user(partial(ask, control)))
    assert as_another_user(partial(take_listener, handback)) in {"0", *CLOSED}
    for path in files:
        assert as_another_user(partial(read, path)) == "PermissionError"
    assert '"sessions"' in ask(control)


def test_everything_made_is_for_its_owner_alone(stack: Stack) -> None:
    run_dir = stack.run_dir
    run_dir.mkdir(parents=True)
    run_dir.chmod(0o755)
    old = os.umask(0)
    try:
        stack.start("-s", f"a={SHADOW} --loop")
    finally:
        os.umask(old)
    wait_for(lambda: stack.shards, what="shards")
    for top in (run_dir, stack.multiproc_dir):
        for path in (top, *top.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            if path.is_dir():
                assert mode == 0o700, path
            elif path.suffix != ".db":  # the library's own, in a directory that is private
                assert mode == 0o600, path


@pytest.mark.parametrize("kind", ["run", "logs", "shard"])
def test_a_directory_where_everybody_may_write_is_refused(stack: Stack, kind: str) -> None:
    run_dir = stack.run_dir
    directory = {"run": run_dir, "logs": run_dir / "logs", "shard": stack.multiproc_dir}[kind]
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    done = stack.start("-s", "a=sleep 600", code=2)
    assert "everybody may write there" in done.stderr
    assert not stack.processes()
    directory.chmod(0o700)
    stack.start("-s", "a=sleep 600")


@needs_root
@pytest.mark.parametrize("kind", ["run", "shard"])
def test_a_directory_of_another_user_is_refused(stack: Stack, kind: str) -> None:
    directory = stack.run_dir if kind == "run" else stack.multiproc_dir
    directory.mkdir(parents=True)
    os.chown(directory, NOBODY, NOBODY)
    done = stack.start("-s", "a=sleep 600", code=2)
    assert f"it belongs to another user (uid {NOBODY})" in done.stderr
    assert not stack.processes()


def test_metricsd_alone_refuses_a_directory_where_everybody_may_write(stack: Stack) -> None:
    stack.multiproc_dir.mkdir(parents=True)
    stack.multiproc_dir.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-m", "telemetry.metricsd", "--port", str(stack.port)],
        cwd=stack.cwd,
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "everybody may write there" in done.stderr


def test_no_secret_is_shown_or_written_down(stack: Stack) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        "[session.a]\n"
        f"command = ['sh', '-c', 'sleep 600', 'x', '--auth-token={SECRET}', '--password',"
        f" '{SECRET}', 'http://u:{SECRET}@h/', '-HAuthorization: Bearer {SECRET}']\n"
        f"env = {{ DESK_PASSWORD = '{SECRET}' }}\n"
    )
    shown = []

    def run(*arguments: str, code: int | None = 0) -> None:
        done = stack.run(*arguments, code=code, MY_TOKEN=SECRET, KRAKEN_API_KEY=SECRET)
        shown.append(done.stdout + done.stderr)

    run("start", "-d", "--port", str(stack.port))
    run("start", "-d", "-s", f"b=env X_SECRET={SECRET} sh -c 'echo hi; exit 3'")
    run("start", "-d", "-s", f"c=nowhere --token {SECRET}", code=2)
    run("start", "-d", "-s", f"c=env PT_CONFIRM_TOKEN={SECRET} sleep 9", code=6)
    stack.wait_for_state("b", "exited")
    run("restart", "a")
    for arguments in (["status"], ["status", "--json"], ["logs"], ["logs", "supervisor"]):
        run(*arguments)
    assert "***" in "".join(shown)
    assert SECRET not in "".join(shown)
    assert SECRET not in read_all(stack.run_dir)
    assert SECRET not in stack.scrape() + stack.scrape("/healthz")
    os.kill(stack.status()["supervisor"]["pid"], 9)
    run("status", "--json", code=4)
    run("start", "-d")
    run("status", "--json")
    run("stop", "--timeout", "2")
    assert SECRET not in "".join(shown)
    assert SECRET not in read_all(stack.run_dir)
