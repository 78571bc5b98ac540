"""The children's output: append-only files, read back by line, over their rotations.

Files and not pipes, so that a session never waits for a reader and outlives its supervisor.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from supervisor.copies import (
    BLOCK_BYTES,
    find_front,
    list_copies,
    read_backwards,
    read_forwards,
)
from telemetry.plain import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

# A line that is longer is shown in pieces; and so much is read back at most for the last lines.
_LINE_BYTES: Final = 1 << 20
_TAIL_BYTES: Final = 1 << 26
_SINCE_BYTES: Final = 1 << 20


def open_log(path: str | Path) -> int:
    """Open a log for appending, give back the descriptor; only its owner may read it. OSError.

    Its directory is made anew where somebody removed it: without a log nothing can start.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a FIFO's reader could hold us up
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    os.set_blocking(descriptor, True)
    return descriptor


def _open_for_reading(path: Path) -> BinaryIO | None:
    """Open a log that is a regular file; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def render_line(line: bytes) -> str:
    """Make a line of output a line of harmless text."""
    return escape(line.decode(errors="replace").rstrip("\r\n"))


def read_tail(path: Path, lines: int) -> list[str]:
    """Read the last lines of a log and its rotated copies, an unfinished one too, as harmless text.

    None when there is no log.
    """
    follower = Follower(path)
    found = [*follower.seek_tail(lines), *follower.read_lines(last=True)]
    return [render_line(line) for line in found[-lines:]] if lines > 0 else []


def read_since(path: Path, start: int) -> list[str]:
    """Read what was written to a log from an offset on, of very much the last, as harmless text."""
    follower = Follower(path, position=max(0, start, find_end(path) - _SINCE_BYTES))
    return [render_line(line) for line in follower.read_lines(last=True)]


def find_end(path: Path) -> int:
    """Find at which offset a log ends; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass(slots=True)
class Follower:
    """Reads what is appended to one log, whole lines at a time, as they were written.

    It goes on over rotations, and after somebody emptied or replaced the log.
    """

    path: Path
    position: int | None = None  # None: where the log begins when it is first seen
    rest: bytes = b""
    _file: BinaryIO | None = field(default=None, repr=False)

    def seek_tail(self, lines: int) -> list[bytes]:
        """Go to the end of the last whole line; give back that many lines before it."""
        log = _open_for_reading(self.path)
        if log is None:
            return []
        with log:
            end = log.seek(0, os.SEEK_END)
            blocks: list[bytes] = []
            found, limit = 0, min(lines * _LINE_BYTES, _TAIL_BYTES + (lines << 10)) + BLOCK_BYTES
            for block in read_backwards(log.fileno(), self.path, end):
                blocks.append(block)
                found += block.count(b"\n")
                limit -= len(block)
                if found > lines or limit <= 0:
                    break
        whole, separator, rest = b"".join(reversed(blocks)).rpartition(b"\n")
        self.position = end - len(rest)
        if not separator or lines == 0:
            return []
        return whole.split(b"\n")[-lines:]

    def read_lines(self, *, last: bool = False) -> Iterator[bytes]:
        """Yield the lines that are new; with `last`, an unfinished one too, and then close."""
        yield from self._read()
        while self._is_replaced():
            if self.rest:
                yield self.rest
            self.close()
            self.position = None
            yield from self._read()
        if last:
            if self.rest:
                yield self.rest
            self.close()

    def _read(self) -> Iterator[bytes]:
        if self._file is None:
            self._file = _open_for_reading(self.path)
        if self._file is None:
            return
        descriptor = self._file.fileno()
        end = os.fstat(descriptor).st_size  # who writes faster than we read holds up nobody
        if self.position is None or self.position > end:
            self.position = find_front(descriptor, list_copies(self.path)).first
            self.rest = b""
        while self.position < end:
            start, block = read_forwards(descriptor, self.path, self.position)
            if not block:
                return
            if start > self.position and self.rest:  # what comes between was rotated away
                yield self.rest
                self.rest = b""
            self.position = start + len(block)
            *lines, self.rest = (self.rest + block).split(b"\n")
            yield from lines
            if len(self.rest) > _LINE_BYTES:  # a line without an end must not fill the memory
                yield self.rest
                self.rest = b""

    def _is_replaced(self) -> bool:
        """Whether another file has the name of the one that is open."""
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:  # removed: whoever writes to it may still do so
            return False

    def close(self) -> None:
        """Let go of the file; what was read of an unfinished line is forgotten."""
        self.rest = b""
        if self._file is not None:
            self._file.close()
            self._file = None
