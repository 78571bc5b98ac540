"""The children's output: append-only files, read back by line.

Files and not pipes, so that a session never waits for a reader and outlives its supervisor.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK: Final = 1 << 16
# Everything a terminal could take for a command; the tab is only a blank.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending; only its owner may read it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)


def render_line(line: bytes) -> str:
    """Make a line of output a line of harmless text."""
    return escape(line.decode(errors="replace").rstrip("\r\n"))


def escape(text: str) -> str:
    """Make text harmless for a terminal: control characters escaped."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


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
        try:
            with self.path.open("rb") as log:
                start = end = log.seek(0, os.SEEK_END)
                tail = b""
                while start > 0 and tail.count(b"\n") <= lines:
                    size = min(start, _BLOCK)
                    start -= size
                    log.seek(start)
                    tail = log.read(size) + tail
        except FileNotFoundError:
            return []
        whole, _, rest = tail.rpartition(b"\n")
        self.position = end - len(rest)
        if not whole or lines == 0:
            return []
        return [render_line(line) for line in whole.split(b"\n")[-lines:]]

    def read_lines(self, *, last: bool = False) -> Iterator[str]:
        """Yield the lines that are new; with `last`, an unfinished one too, and then close."""
        if self._file is None:
            try:
                self._file = self.path.open("rb")
            except FileNotFoundError:
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
