"""Follows a file that others append to, rotate and truncate, and gives each of its lines once.

Every file that the path has meant stays open until it has been quiet for a while: what a writer
still adds after a rotation is read too, and no inode we know can come back as another file's.
A newline makes a line. Memory is a chunk and a line for each open file, however long they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES: Final = 1 << 17
LINE_LIMIT_BYTES: Final = 1 << 16
# Read again each time: when what lies before our place has changed, the file was written anew.
_MARK_BYTES: Final = 256
# How long a rotated file has to be quiet before it is let go; and when it need not be.
QUIET_SECONDS: Final = 2.0
_OPEN_FILES: Final = 16
# What stands for a line beyond the limit. It is no JSON, and so it is counted.
TOO_LONG: Final = b"(too long)"


@dataclass(slots=True)
class _Source:
    """An open file and our place in it."""

    fd: int
    identity: tuple[int, int]
    active_at: float
    offset: int = 0
    mark: bytes = b""
    rest: bytes = b""  # a line without its newline
    skipping: bool = False  # what comes is the end of a line that is not wanted

    def skip_all(self) -> None:
        """Go to the end, and to the end of the line that may be under way there."""
        self.offset = os.fstat(self.fd).st_size
        start = max(0, self.offset - _MARK_BYTES)
        self.mark = os.pread(self.fd, self.offset - start, start)
        self.offset = start + len(self.mark)
        self.skipping = not self.mark.endswith(b"\n") and self.offset > 0

    def read_lines(self) -> tuple[list[bytes], bool]:
        """Read a chunk: the lines that end in it, and whether there was anything new."""
        lines: list[bytes] = []
        data = os.pread(self.fd, CHUNK_BYTES, self.offset - len(self.mark))
        if not data.startswith(self.mark):
            # Truncated, and perhaps written beyond our place since: it begins again.
            lines += self.end()
            self.offset, self.mark, self.skipping = 0, b"", False
            data = os.pread(self.fd, CHUNK_BYTES, 0)
        new = len(data) - len(self.mark)
        if new:
            lines += self._split(data[len(self.mark) :])
            self.offset += new
            self.mark = data[-_MARK_BYTES:]
        return lines, new > 0

    def _split(self, new: bytes) -> list[bytes]:
        # Zeros are the hole before a writer that went on at its old place after a truncation.
        *lines, last = (self.rest + new).lstrip(b"\0").split(b"\n")
        if self.skipping and lines:
            del lines[0]
            self.skipping = False
        lines = [line if len(line) <= LINE_LIMIT_BYTES else TOO_LONG for line in lines]
        if len(last) > LINE_LIMIT_BYTES and not self.skipping:
            lines.append(TOO_LONG)
            self.skipping = True
        self.rest = b"" if self.skipping else last
        return lines

    def end(self) -> list[bytes]:
        """Give what is left as a line: nobody is going to end it any more."""
        rest, self.rest = self.rest, b""
        return [rest] if rest else []


class Follower:
    """Reads on, step by step; `problem` says in words why there is nothing to read, or is empty.

    What is in the file when the first step finds it is left out with `from_start` false.
    """

    def __init__(self, path: Path, *, from_start: bool = True) -> None:
        self.problem = ""
        self._path = path
        self._from_start = from_start
        self._sources: list[_Source] = []  # the newest last
        self._looked = False
        self._changed = 0  # when the directory did, at the last look
        self._known: set[tuple[int, int]] = set()  # the rotated files beside ours
        stem, suffix = re.escape(path.stem), re.escape(path.suffix)
        # events.jsonl.1, events.1, events-20260131.jsonl; no .gz, and no other's file.
        self._rotated = re.compile(rf"{stem}(?:{suffix})?[-_.]?[0-9][-_.T0-9]*(?:{suffix})?")

    def step(self, now: float) -> tuple[list[bytes], bool]:
        """Read a chunk of each open file; tell whether it pays to step again at once.

        `now` is monotonic. Raises OSError for a file that cannot be read any more: where we are
        in it can then no longer be known.
        """
        self._look(now)
        lines: list[bytes] = []
        busy = False
        for source in self._sources[:]:
            found, more = source.read_lines()
            lines += found
            busy = busy or more
            if more or source is self._sources[-1]:
                source.active_at = now
            elif now - source.active_at >= QUIET_SECONDS or len(self._sources) >= _OPEN_FILES:
                lines += source.end()
                self._sources.remove(source)
                os.close(source.fd)
        return lines, busy

    def close(self) -> None:
        """Let every file go."""
        while self._sources:
            os.close(self._sources.pop().fd)

    def _look(self, now: float) -> None:
        """See which file the path means now, and which ones it meant since the last look."""
        first, self._looked = not self._looked, True
        try:
            changed = self._path.parent.stat().st_mtime_ns
            identity = _identify(self._path.stat())
            found = next((s for s in self._sources if s.identity == identity), None)
            if found is None:
                self._sources.append(_open(self._path, now))
                if first and not self._from_start:
                    self._sources[-1].skip_all()
            elif found is not self._sources[-1]:  # a rotation was taken back
                self._sources.remove(found)
                self._sources.append(found)
            if changed != self._changed:
                self._look_beside(now, rotated=found is None and not first)
                self._changed = changed
            self.problem = ""
        except OSError as error:
            self.problem = error.strerror or str(error)

    def _look_beside(self, now: float, *, rotated: bool) -> None:
        """Open what came and was rotated away between two looks; know the other files beside ours.

        Where the path means what it meant, a new file beside it is a copy (`copytruncate`).
        """
        beside = {}
        for path in self._path.parent.iterdir():
            if self._rotated.fullmatch(path.name):
                with contextlib.suppress(OSError):  # gone again
                    beside[_identify(path.stat())] = path
        held = {source.identity for source in self._sources}
        for identity in beside.keys() - self._known - held if rotated else ():
            with contextlib.suppress(OSError):
                self._sources.insert(-1, _open(beside[identity], now))
        self._known = set(beside)


def _open(path: Path, now: float) -> _Source:
    # A FIFO without a writer would hold us up for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a regular file")  # noqa: TRY301  it closes like any other
    except OSError:
        os.close(fd)
        raise
    return _Source(fd, _identify(found), now)


def _identify(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
