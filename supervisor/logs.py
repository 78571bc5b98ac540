"""The children's output: append-only files, read back by line.

Files and not pipes, so that a session never waits for a reader and outlives its supervisor.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

from telemetry.plain import escape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK: Final = 1 << 16


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending; only its owner may read it. Raises OSError.

    Its directory is made anew where somebody removed it: without a log nothing can start.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a FIFO's reader could hold us up
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb", buffering=0)


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
    """Read the last lines of a log; none when there is no log."""
    follower = Follower(path)
    found = follower.seek_tail(lines)
    return [*found, *follower.read_lines(last=True)][-lines:] if lines > 0 else []


@dataclass(slots=True)
class Follower:
    """Reads what is appended to one log, whole lines at a time."""

    path: Path
    position: int = 0
    rest: bytes = b""
    _file: BinaryIO | None = field(default=None, repr=False)

    def seek_tail(self, lines: int) -> list[str]:
        """Go to the end of the last whole line; give back that many lines before it."""
        log = _open_for_reading(self.path)
        if log is None:
            return []
        with log:
            start = end = log.seek(0, os.SEEK_END)
            tail = b""
            while start > 0 and tail.count(b"\n") <= lines:
                size = min(start, _BLOCK)
                start -= size
                log.seek(start)
                tail = log.read(size) + tail
        whole, _, rest = tail.rpartition(b"\n")
        self.position = end - len(rest)
        if not whole or lines == 0:
            return []
        return [render_line(line) for line in whole.split(b"\n")[-lines:]]

    def read_lines(self, *, last: bool = False) -> Iterator[str]:
        """Yield the lines that are new; with `last`, an unfinished one too, and then close."""
        if self._file is None:
            self._file = _open_for_reading(self.path)
        if self._file is None:
            return
        self._file.seek(self.position)
        while block := self._file.read(_BLOCK):
            self.position += len(block)
            *lines, self.rest = (self.rest + block).split(b"\n")
            yield from map(render_line, lines)
        if last:
            if self.rest:
                yield render_line(self.rest)
            self.close()

    def close(self) -> None:
        """Let go of the file; what was read of an unfinished line is forgotten."""
        self.rest = b""
        if self._file is not None:
            self._file.close()
            self._file = None
