"""`ptsup verify` where no Prometheus answers, and what it refuses: all told, and in time."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from grafana_server import PASSWORD, USER
from stack import find_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack import Stack


def test_a_prometheus_that_cannot_be_reached_is_told(stack: Stack) -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    stack.start()
    printed = stack.run("verify", "--prometheus", url, code=5).stdout
    assert f"FAIL|prometheus|{url} cannot be reached: Connection refused" in printed


@pytest.mark.parametrize("drips", [False, True], ids=["says nothing", "drips"])
def test_a_prometheus_that_is_slow_is_told_in_time(stack: Stack, drips: bool) -> None:
    stack.start()
    with _slow_server(drips=drips) as url:
        began = time.monotonic()
        printed = stack.run("verify", "--prometheus", url, "--timeout", "2", code=5).stdout
        assert time.monotonic() - began < 2 + 3
    assert f"FAIL|prometheus|{url} did not answer within 2 s" in printed


@contextmanager
def _slow_server(*, drips: bool) -> Iterator[str]:
    """Take connections, and say nothing or a byte now and then."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            while not ended.wait(0.2) and drips:
                try:
                    connection.send(b"H")
                except OSError:
                    return
            ended.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_evidence_is_never_overwritten_and_says_fail_where_nothing_runs(
    stack: Stack,
) -> None:
    (stack.cwd / "old.md").write_text("what was seen then")
    done = stack.run("verify", "--evidence", "old.md", code=2)
    assert "is there already" in done.stderr
    assert (stack.cwd / "old.md").read_text() == "what was seen then"

    url = f"http://127.0.0.1:{find_free_port()}"
    done = stack.run(
        *("verify", "--prometheus", url, "--evidence", "new.md"),
        code=5,
        PEAK_TRADE_METRICSD_PORT=str(stack.port),  # the usual one may be somebody's here
    )
    assert "FAIL|supervisor|nothing runs in " in done.stdout
    text = (stack.cwd / "new.md").read_text()
    assert "**RESULT=FAIL**" in text
    assert "[x]" not in text
    assert "PASS|" not in text
    assert str(stack.cwd) not in text
    assert sorted(path.name for path in stack.cwd.iterdir()) == ["new.md", "old.md"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--prometheus", "127.0.0.1:9090"), "--prometheus: '127.0.0.1:9090' is not a URL"),
        (("--prometheus", "ftp://h"), "--prometheus: 'ftp://h' is not a URL"),
        (("--grafana", f"http://{USER}:{PASSWORD}@h"), "--grafana: it has credentials in it"),
        (("--evidence", "no/such/place.md"), "there is no directory 'no/such'"),
        (("--timeout", "0"), "nothing is answered in 0 s"),
        (("--window", "-1"), "not a number of seconds, 0 or more"),
    ],
)
def test_bad_options_are_refused(stack: Stack, options: tuple[str, ...], says: str) -> None:
    done = stack.run("verify", *options, code=2)
    assert says in done.stderr
    assert PASSWORD not in done.stderr
