"""The rotated copies of a log: `NAME.log.<start>` has what stood in `NAME.log` from that offset on.

A log and its copies share one space of offsets, in which only the log grows, at its end: what lies
before its front is a hole, and stands in the copies. This room names and reads them; it changes
nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK_BYTES: Final = 1 << 16
# A hole ends in the middle of a block, whose beginning reads as zeros. No file system's blocks
# are larger than this.
_LARGEST_BLOCK: Final = 1 << 20
# NAME.log.<start>, and NAME.log.<start>.<number> when it was set aside.
_COPY: Final = re.compile(r"(?P<log>.+\.log)\.(?P<start>[0-9]{1,18})(?P<aside>\.[0-9]{1,9})?")
_BESIDE: Final = re.compile(r"\.(?P<log>.+\.log)\.(?P<start>[0-9]{1,18})\.tmp")


@dataclass(frozen=True, slots=True)
class Copy:
    """One rotated copy, with the offsets of its first byte and behind its last."""

    path: Path
    start: int
    end: int

    def read(self, position: int, size: int) -> bytes:
        """Read what stood at an offset of the log; nothing where the copy is gone by now."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(descriptor, min(size, self.end - position), position - self.start)
        finally:
            os.close(descriptor)


@dataclass(slots=True)
class Shelf:
    """What lies beside one log: copies by their offsets; aside and unfinished ones."""

    copies: list[Copy] = field(default_factory=list)
    aside: list[tuple[int, Path]] = field(default_factory=list)  # with when it was last written
    unfinished: list[tuple[int, Path]] = field(default_factory=list)  # with its start


def is_copy(name: str) -> bool:
    """Whether a file is named like a copy of ours, set aside or not."""
    return _COPY.fullmatch(name) is not None


def place_copy(log: Path, start: int) -> Path:
    """Where the copy of what begins at `start` goes."""
    return log.with_name(f"{log.name}.{start}")


def place_beside(log: Path, start: int) -> Path:
    """Where it is written before it takes its name."""
    return log.with_name(f".{log.name}.{start}.tmp")


def list_shelves(directory: Path) -> dict[str, Shelf]:
    """List what lies in a directory of logs, by the log's name, in one pass; raises OSError."""
    shelves: dict[str, Shelf] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            found = _COPY.fullmatch(entry.name) or _BESIDE.fullmatch(entry.name)
            if found is None or not entry.is_file(follow_symlinks=False):
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            shelf = shelves.setdefault(found["log"], Shelf())
            path, start = Path(entry.path), int(found["start"])
            if found.re is _BESIDE:
                shelf.unfinished.append((start, path))
            elif found["aside"]:
                shelf.aside.append((facts.st_mtime_ns, path))
            elif entry.name == f"{found['log']}.{start}":  # not 007
                shelf.copies.append(Copy(path, start, start + facts.st_size))
    for shelf in shelves.values():
        shelf.copies.sort(key=lambda copy: copy.start)
        shelf.aside.sort()
    return shelves


def list_copies(log: Path) -> list[Copy]:
    """List the copies of one log, the oldest first; none where they cannot be listed."""
    try:
        return list_shelves(log.parent).get(log.name, Shelf()).copies
    except OSError:
        return []


# -- Where a log begins, and reading over it and its copies ----------------------------------------


@dataclass(frozen=True, slots=True)
class Front:
    """Where a log's own bytes begin: the first block that is no hole, and the first byte in it."""

    block: int
    first: int


def find_front(descriptor: int, copies: Sequence[Copy]) -> Front:
    """Find where a log begins, behind what was rotated away."""
    block = kernel.find_data(descriptor, 0)
    first = skip_zeros(descriptor, block)
    for copy in reversed(copies):
        if block <= copy.end <= first:  # what follows as zeros was written so
            return Front(block, copy.end)
    return Front(block, first if block > 0 else 0)


def skip_zeros(descriptor: int, position: int) -> int:
    """Find the first byte that is not zero, at most a block further on."""
    limit = position + _LARGEST_BLOCK
    while position < limit:
        data = os.pread(descriptor, BLOCK_BYTES, position)
        rest = data.lstrip(b"\0")
        position += len(data) - len(rest)
        if rest or not data:
            break
    return position


def read_forwards(descriptor: int, log: Path, position: int) -> tuple[int, bytes]:
    """Read a block at an offset, or where the next ones are that are left; with its offset.

    A copy has its name before the log has the hole. So where bytes are read and *then* no hole
    is found, there was none; and without a zero among them there is nothing to be found out.
    """
    data = os.pread(descriptor, BLOCK_BYTES, position)
    if b"\0" not in data:
        return position, data
    copies = list_copies(log)
    front = find_front(descriptor, copies)
    if position >= front.first:
        return position, data
    for copy in copies:
        start = max(position, copy.start)
        if start < copy.end and (data := copy.read(start, BLOCK_BYTES)):
            return start, data
    return front.first, os.pread(descriptor, BLOCK_BYTES, front.first)


def read_backwards(descriptor: int, log: Path, position: int) -> Iterator[bytes]:
    """Read blocks from an offset back to the oldest byte that is left."""
    while position > 0:
        start = max(0, position - BLOCK_BYTES)
        data = os.pread(descriptor, position - start, start)
        if b"\0" in data:
            copies = list_copies(log)
            front = find_front(descriptor, copies)
            if position <= front.first:
                copy = next((each for each in copies if each.start < position <= each.end), None)
                start = max(copy.start, position - BLOCK_BYTES) if copy else 0
                data = copy.read(start, position - start) if copy else b""
            elif start < front.first:
                start, data = front.first, data[front.first - start :]
        if not data:
            return
        yield data
        position = start
