"""metricsd gives its listening socket back: whole, to this user alone, and serves on."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.port import HANDBACK_SECONDS, take_back
from telemetry.handback import offer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def find_port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_both_listen_on_the_one_socket_afterwards_and_it_can_be_asked_again(
    tmp_path: Path, listener: socket.socket
) -> None:
    path = tmp_path / "handback.sock"
    offer(path, listener)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for _ in range(3):
        back = take_back(path, find_port(listener))
        assert back is not None
        assert not back.get_inheritable()
        with back, socket.create_connection(listener.getsockname()):
            connection, _ = back.accept()
            connection.close()


def test_a_socket_of_a_dead_metricsd_is_replaced_and_another_file_is_not(
    tmp_path: Path, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "handback.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    offer(path, listener)
    back = take_back(path, find_port(listener))
    assert back is not None
    back.close()
    other = tmp_path / "precious"
    other.write_text("kept")
    offer(other, listener)
    assert other.read_text() == "kept"
    assert "cannot offer the listening socket" in caplog.text


def test_one_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    path = tmp_path / "handback.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen()
        began = time.monotonic()
        assert take_back(path, 9111) is None
        assert HANDBACK_SECONDS - 0.1 < time.monotonic() - began < HANDBACK_SECONDS + 1


def test_a_socket_of_another_port_is_not_taken(tmp_path: Path, listener: socket.socket) -> None:
    offer(tmp_path / "h", listener)
    assert take_back(tmp_path / "h", find_port(listener) + 1) is None


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_another_user_gets_nothing(listener: socket.socket) -> None:
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "print(socket.recv_fds(s, 64, 1)[:2])"
    )
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # as if it kept nobody out
        path = Path(directory, "handback.sock")
        offer(path, listener)
        path.chmod(0o666)
        for user, answer in ((0, "(b'listener', ["), (65534, "(b'', [])")):
            done = subprocess.run(
                ["/usr/bin/env", "python3", "-c", code, str(path)],
                cwd="/",
                user=user,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            assert done.stdout.strip().startswith(answer), done
