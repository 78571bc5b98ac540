"""The control socket met with garbage, silence and half a request."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import stat
import time
from typing import TYPE_CHECKING, Final

import psutil

from another_user import as_another_user, needs_root
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack


def ask(stack: Stack, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(stack.run_dir / "control.sock"))
        with contextlib.suppress(BrokenPipeError):  # refused before its end
            connection.sendall(line)
        answer = connection.makefile("rb").readline()
    found: dict[str, object] = json.loads(answer) if answer else {}
    return found


BAD_REQUESTS: Final = (
    (b"garbage\n", "not a line of JSON"),
    (b"[]\n", "not a JSON object"),
    (b"{}\n", "version"),
    (b'{"v": 1}\n', "verb"),
    (b'{"v": 1, "verb": "explode"}\n', "no such verb"),
    (b'{"v": 1, "verb": "restart"}\n', "no session was named"),
    (b'{"v": 1, "verb": "start", "sessions": 3}\n', "list of sessions"),
    (b'{"v": 1, "verb": "start", "sessions": [{"name": "../x"}]}\n', "not a session name"),
    (b'{"v": 1, "verb": "stop", "names": ["nobody"]}\n', "no such session"),
    (b'{"v": 1, "verb": "stop", "timeout_seconds": "soon"}\n', "number of seconds"),
    (b"[" * 100_000 + b"\n", "not a line of JSON"),
    (b"x" * (5 << 20) + b"\n", "too long"),
)


def test_a_bad_request_is_answered_with_an_error_and_harms_nobody(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    for line, words in BAD_REQUESTS:
        answer = ask(stack, line)
        assert answer["ok"] is False, line[:80]
        assert words in str(answer["error"])
        assert stack.session("a")["state"] == "running"


def test_silent_and_half_clients_hold_up_nobody(stack: Stack) -> None:
    stack.start()
    path = str(stack.run_dir / "control.sock")
    clients = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    try:
        for number, client in enumerate(clients):
            client.connect(path)
            if number % 2:
                client.sendall(b'{"v": 1, "verb"')
        assert stack.status()["supervisor"]["state"] == "running"
    finally:
        for client in clients:
            client.close()


def test_a_client_that_is_still_there_at_the_end_is_no_error(stack: Stack) -> None:
    stack.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(stack.run_dir / "control.sock"))
        connection.sendall(b'{"v": 1')
        stack.run("stop")
    assert "Error" not in stack.read_log("supervisor")


def test_it_is_its_owners_alone(stack: Stack) -> None:
    stack.start()
    assert stat.S_IMODE((stack.run_dir / "control.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.run_dir.stat().st_mode) == 0o700


def test_clients_that_stay_take_no_descriptor_that_the_supervisor_needs(stack: Stack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        stack.start("-s", "a=sleep 600")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    before = stack.status()["metricsd"]["pid"]
    with contextlib.ExitStack() as clients:
        unanswered: set[socket.socket] = set()

        def count_refused() -> int:
            for client in select.select(unanswered, (), (), 0.05)[0]:
                with contextlib.suppress(ConnectionError):
                    assert b"too many clients" in client.recv(4096)
                unanswered.remove(client)
            return 80 - len(unanswered)

        for _ in range(80):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(stack.run_dir / "control.sock"))
            with contextlib.suppress(OSError):  # refused before it could ask
                client.sendall(b'{"v": 1, "verb": "wait", "names": ["a"]}\n')
            unanswered.add(client)
            select.select([client], (), (), 0.05)  # it is let in or refused before the next one
        wait_for(lambda: count_refused() > 30, what="the refusals")
        time.sleep(2.5)  # as long as two probes take
        stack.scrape()
    metricsd = stack.status()["metricsd"]
    assert (metricsd["pid"], metricsd["state"]) == (before, "running")


@needs_root
def test_another_user_is_refused_even_where_the_file_lets_them_in(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    path = stack.run_dir / "control.sock"
    descriptor = os.open(path.parent, os.O_PATH)  # whatever lies above may be closed to others
    os.fchdir(descriptor)
    try:
        path.parent.chmod(0o755)
        path.chmod(0o666)

        def stop() -> str:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(15)
                connection.connect("control.sock")
                with contextlib.suppress(OSError):
                    connection.sendall(b'{"v": 1, "verb": "stop"}\n')
                return connection.makefile("rb").readline().decode()

        assert "another user" in as_another_user(stop)
    finally:
        os.chdir(stack.cwd)
        os.close(descriptor)
        path.parent.chmod(0o700)
    assert stack.session("a")["state"] == "running"


def test_one_that_shuts_its_writing_side_is_answered_all_the_same(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(stack.run_dir / "control.sock"))
        connection.sendall(b'{"v": 1, "verb": "stop", "names": ["a"]}\n')
        connection.shutdown(socket.SHUT_WR)
        assert b'"ok":true' in connection.makefile("rb").readline()


def test_what_follows_a_request_is_thrown_away(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    pid = stack.status()["supervisor"]["pid"]
    before = psutil.Process(pid).memory_info().rss
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(stack.run_dir / "control.sock"))
        connection.sendall(b'{"v": 1, "verb": "wait", "names": ["a"]}\n')
        for _ in range(64):
            connection.sendall(b"x" * (1 << 20))
        assert psutil.Process(pid).memory_info().rss - before < 32 << 20
        stack.run("stop", "a")
        assert b'"ok":true' in connection.makefile("rb").readline()


def test_a_name_that_is_given_often_is_taken_once(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    names = json.dumps({"v": 1, "verb": "restart", "names": ["a"] * 500_000}).encode()
    began = time.monotonic()
    assert ask(stack, names + b"\n")["ok"] is True
    assert time.monotonic() - began < 10
    assert stack.session("a")["restarts"] == 1
