"""A kept connection, against a server that sends what it is told, as slowly as it is told."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scene:
    """A connection, and its other end."""

    def __init__(self, server: socket.socket) -> None:
        host, port = server.getsockname()
        self.kept = asyncio.run(Kept.open(host, port, "/healthz"))
        self.other, _ = server.accept()
        self.other.settimeout(10)
        # On loopback what was sent is there when the call returns.
        self.other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, body: str, tag: str = "", *, without: int = 0) -> None:
        """Send an answer, or what is left of it without its last bytes."""
        self.other.recv(1 << 16)  # the question
        etag = f"Etag: {tag}\r\n" if tag else ""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{etag}Server: metricsd\r\n\r\n"
        answer = f"{head}{body}".encode()
        self.other.sendall(answer[: len(answer) - without])

    def read(self) -> dict[str, Any] | None:
        found = self.kept.read()
        if found is not None:
            self.kept.ask()
        return found


@pytest.fixture
def scene() -> Iterator[Scene]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        scene = Scene(server)
        yield scene
        scene.kept.close()
        scene.other.close()


def test_the_same_tag_is_the_same_document_with_the_ages_it_had(scene: Scene) -> None:
    assert scene.read() is None
    scene.send('{"age": 1}\n', 'W/"7.1"')
    first = scene.read()
    assert first == {"age": 1}
    scene.send('{"age": 2}\n', 'W/"7.1"')
    assert scene.read() is first
    scene.send('{"age": 3}\n', 'W/"7.12"')
    assert scene.read() == {"age": 3}
    scene.send('{"age": 4}\n', 'W/"7.1"')
    assert scene.read() == {"age": 4}


def test_an_answer_is_waited_for_until_it_is_whole_though_its_tag_is_known(scene: Scene) -> None:
    scene.send('{"age": {"a": 1}}\n', 'W/"7.1"')
    first = scene.read()
    body = '{"age": {"a": 1}}\n'
    for without in (1, 2, 3, len(body)):
        scene.send(body, 'W/"7.1"', without=without)
        assert scene.kept.read() is None
        scene.other.sendall(body.encode()[-without:])
        assert scene.read() is first


def test_without_a_tag_every_answer_is_read(scene: Scene) -> None:
    for age in (1, 2):
        scene.send(f'{{"age": {age}}}\n')
        assert scene.read() == {"age": age}


def test_a_long_document_is_read_whole(scene: Scene) -> None:
    body = f'{{"unreadable": "{"x" * 100_000}"}}\n'
    for _ in range(2):
        scene.send(body, 'W/"7.1"')
        found = None
        while found is None:  # what is left is on its way
            found = scene.kept.read()
        assert found == {"unreadable": "x" * 100_000}
        scene.kept.ask()
