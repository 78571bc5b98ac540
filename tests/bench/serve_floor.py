"""The floor: metricsd's own HTTP server before the least that any reader must do.

It reads the bytes in use of the shards that it found at its start, from kept descriptors, and
prints a given page with values picked from what it has just read. It lists nothing, adds up
nothing and checks nothing, so it is not to be had; it is what the rest is measured by.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client.utils import floatToGoString

from telemetry.answers import Page
from telemetry.descriptors import raise_limit
from telemetry.server import Application, Server
from telemetry.shards import list_shards, parse_slots

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER_BYTES = 8
_WORD = 8


class Floor:
    """The collector that does nothing but what cannot be left out."""

    def __init__(self, directory: Path, page: bytes) -> None:
        self._lock = threading.Lock()
        images: dict[str, bytes] = {}
        used = []
        for shard in list_shards(directory):
            descriptor = os.open(shard.path, os.O_RDONLY)
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            end = int(np.frombuffer(data[:4], dtype=np.int32)[0])
            if len(data) >= len(images.get(shard.kind, b"")):  # the last one read counts
                images[shard.kind] = data
            used.append((descriptor, shard.kind, end))
        # Each kind is read into a place of its own, one shard over the other.
        offsets, words, size = {}, [], 0
        for kind, data in images.items():
            offsets[kind] = size
            end = int(np.frombuffer(data[:4], dtype=np.int32)[0])
            slots, _, _ = parse_slots(data, _HEADER_BYTES, end)
            words += [(size + at) // _WORD for _, at in slots]
            size += len(data)
        self._words = np.zeros(size // _WORD)
        room = self._words.data.cast("B")
        self._reads = [
            (descriptor, (room[offsets[kind] : offsets[kind] + end],))
            for descriptor, kind, end in used
        ]
        self._prepare(page, words)

    def _prepare(self, page: bytes, words: list[int]) -> None:
        pieces, before = [], b""
        for line in page.splitlines(keepends=True):
            if line.startswith(b"#"):
                before += line
            else:
                pieces.append(before + line.rpartition(b" ")[0] + b" ")
                before = b"\n"
        pieces = [
            piece if not number or piece.startswith(b"\n") else b"\n" + piece
            for number, piece in enumerate(pieces)
        ]
        self._pieces = [piece.decode() for piece in pieces]
        self._where: NDArray[np.intp] = np.array(
            list(islice(cycle(words), len(pieces))), dtype=np.intp
        )

    def render(self, accept_header: str) -> Page:  # noqa: ARG002  the interface's
        """Read, pick and print."""
        preadv = os.preadv
        with self._lock:
            for descriptor, room in self._reads:
                preadv(descriptor, room, 0)
            values = self._words[self._where].tolist()
        texts = map(floatToGoString, values)
        body = "".join(chain.from_iterable(zip(self._pieces, texts, strict=True))) + "\n"
        return Page("text/plain; version=0.0.4; charset=utf-8", body.encode())

    def describe(self) -> dict[str, Any]:
        """Say nothing."""
        return {}

    def fold(self) -> bool:
        """Fold nothing."""
        return False

    def look(self, age_seconds: float) -> None:
        pass


def main() -> None:
    descriptor, directory, page = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    shares = raise_limit()
    collector = Floor(directory, page.read_bytes())
    application = Application(collector, {})
    server = Server(
        application, socket.socket(fileno=descriptor), connection_limit=shares.connections
    )
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
