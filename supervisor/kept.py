"""A connection on which a question is asked at one beat, and its answer read at the next.

So an answer wakes nobody up: who is awake for the next question finds it there. And one that
says, by its ETag (RFC 9110), that it is the last one over again is not read any further.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any, Final

# Room for an ordinary answer; more of it takes another turn.
_BLOCK: Final = 1 << 10
# Of a document: it is one line, so nothing shorter ends with them.
_LAST_BYTES: Final = b"}\n"


@dataclass(slots=True)
class Kept:
    """One connection to an HTTP server of ours, open as long as that answers well."""

    _connection: socket.socket
    _request: bytes
    _answer: bytes = b""
    _document: dict[str, Any] | None = None
    _tag: bytes = b""  # the header that stands for this document; empty where there is none
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
        self._answer = b""
        self._connection.send(self._request)

    def read(self) -> dict[str, Any] | None:
        """Read the answer, a JSON document; None when not all of it is there yet.

        The very same document as the last time when nothing in it has changed but ages.
        Raises OSError or ValueError for any other answer, or when there will be none.
        """
        while not self.ended:
            try:
                received = self._connection.recv(_BLOCK)
            except BlockingIOError:
                return None
            self._answer += received
            self.ended = not received
            if self._tag and self._tag in self._answer and self._answer.endswith(_LAST_BYTES):
                return self._document
            document = parse_answer(self._answer, ended=self.ended)
            if document is not None:
                self._document, self._tag = document, _find_tag(self._answer)
                return document
        return None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _make_socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)  # noqa: FBT003 - as everywhere
    return made


def parse_answer(answer: bytes, *, ended: bool) -> dict[str, Any] | None:
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


def _find_length(head: bytes) -> int | None:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else None


def _find_tag(answer: bytes) -> bytes:
    """Find the header that stands for the answer's document, line ends included."""
    head = answer.partition(b"\r\n\r\n")[0] + b"\r\n"
    start = head.lower().find(b"\r\netag:")
    return b"" if start < 0 else head[start : head.index(b"\r\n", start + 2) + 2]
