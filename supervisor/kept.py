"""A connection on which a question is asked at one beat, and its answer read at the next.

So an answer wakes nobody up: who is awake for the next question finds it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import Any, Final

_BLOCK: Final = 1 << 13


@dataclass(slots=True)
class Kept:
    """One connection to an HTTP server of ours, open as long as that answers well."""

    _connection: socket.socket
    _request: bytes
    _answer: bytearray = field(default_factory=bytearray)
    ended: bool = False  # the other end has hung up

    @classmethod
    async def open(cls, host: str, port: int, path: str) -> Kept:
        """Connect, and ask for `path`; raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connection = _make_socket(family)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
            kept = cls(connection, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            kept.ask()
        except BaseException:
            connection.close()
            raise
        return kept

    def renew(self) -> None:
        """Ask on a new connection to the same address, without waiting for it; raises OSError.

        On this machine it is there at once, unless more wait for theirs than may.
        """
        family, address = self._connection.family, self._connection.getpeername()
        self.close()
        self._connection = _make_socket(family)
        with contextlib.suppress(BlockingIOError):  # then it cannot be asked on, either
            self._connection.connect(address)
        self.ended = False
        self.ask()

    def ask(self) -> None:
        """Ask again; raises OSError."""
        self._answer.clear()
        self._connection.send(self._request)

    def read(self) -> dict[str, Any] | None:
        """Read the answer, a JSON document; None when not all of it is there yet.

        Raises OSError or ValueError for any other answer, or when there will be none.
        """
        found = None
        while found is None and not self.ended:
            try:
                received = self._connection.recv(_BLOCK)
            except BlockingIOError:
                break
            self._answer += received
            self.ended = not received
            found = parse_answer(self._answer, ended=self.ended)
        return found

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _make_socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)  # noqa: FBT003 - as everywhere
    return made


def parse_answer(answer: bytes | bytearray, *, ended: bool) -> dict[str, Any] | None:
    """Read the JSON document of a whole answer; None while it is not whole.

    Raises ValueError for any other answer, EOFError for one that will never be whole.
    """
    head, found, body = answer.partition(b"\r\n\r\n")
    length = _find_length(head) if found else None
    if not found or (len(body) < length if length is not None else not ended):
        if ended:
            raise EOFError("the answer is not whole")
        return None
    document = json.loads(body)
    if head.split(None, 2)[1] != b"200" or not isinstance(document, dict):
        raise ValueError("not a document")
    return document


def _find_length(head: bytes | bytearray) -> int | None:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else None
