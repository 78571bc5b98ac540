"""One step of a rotation: the oldest lines of a log go into a copy, then a hole takes their place.

Copy, fsync, name, fsync of the directory, hole, and only then the temporary name goes: as long as
that is there, the hole may still be due. Wherever a crash falls, the same call goes on from there.
docs/decisions/0009-rotation.md has the proof.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from itertools import count
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.copies import (
    BLOCK_BYTES,
    Copy,
    Shelf,
    find_front,
    list_shelves,
    place_beside,
    place_copy,
    skip_zeros,
)

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.config import LogLimits

_CHUNK_BYTES: Final = 1 << 22
_PROBE_BYTES: Final = 1 << 20
# What copy_file_range says where a plain copy has to do.
_NO_RANGE: Final = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def find_refusal(directory: Path) -> str | None:
    """Try whether files can have holes here; give back why not. Raises OSError."""
    path = directory / ".probe.tmp"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        os.pwrite(descriptor, b"x", 0)
        os.pwrite(descriptor, b"x", _PROBE_BYTES)
        kernel.punch_hole(descriptor, 0, _PROBE_BYTES)
        seen = kernel.find_data(descriptor, 0) == _PROBE_BYTES
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}:
            raise
        return "its file system has no holes"
    finally:
        os.close(descriptor)
    return None if seen else "its file system does not tell of its holes"


def rotate(log: Path, limits: LogLimits) -> int:
    """Move at most one copy's worth of a log that is too long; give back where it then begins.

    Only the supervisor that holds the run directory calls this. Raises OSError.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(log, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(log))
        shelf = _settle(log, descriptor)
        front = find_front(descriptor, shelf.copies)
        size = os.fstat(descriptor).st_size
        if not limits.max_bytes or size - front.first <= limits.max_bytes:
            return front.first
        end = _find_cut(descriptor, front.first, limits.max_bytes)
        if limits.backups and end > front.first:
            shelf.copies.append(_copy(log, descriptor, front.first, end))
        kernel.punch_hole(descriptor, front.block, end)
        place_beside(log, front.first).unlink(missing_ok=True)
        _remove_oldest(shelf, limits.backups)
        return end
    finally:
        os.close(descriptor)


def _find_cut(descriptor: int, first: int, max_bytes: int) -> int:
    """Find the end of the last line that still goes into one copy."""
    hole = kernel.find_hole(descriptor, first)  # somebody else's: we punch from the front on
    limit = end = min(first + max_bytes, hole)
    while end > first:
        start = max(first, end - BLOCK_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return limit  # a line longer than a log may be is cut


def _copy(log: Path, descriptor: int, first: int, end: int) -> Copy:
    """Copy, and give the copy its name once it is on the disk; never over another one."""
    beside, path = place_beside(log, first), place_copy(log, first)
    target = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _copy_range(descriptor, target, first, end)
            os.fsync(target)
        finally:
            os.close(target)
        os.link(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _sync_directory(log.parent)
    return Copy(path, first, end)


def _copy_range(source: int, target: int, position: int, end: int) -> None:
    while position < end:
        size = min(_CHUNK_BYTES, end - position)
        try:
            copied = os.copy_file_range(source, target, size, offset_src=position)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
            copied = os.write(target, os.pread(source, min(size, _PROBE_BYTES), position))
        if not copied:
            raise OSError(errno.EIO, "it became shorter while it was copied")
        position += copied


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- What a crash, or somebody else, has left ------------------------------------------------------


def _settle(log: Path, descriptor: int) -> Shelf:
    """Finish what a crash interrupted, and set aside the copies of what is another log by now."""
    shelf = list_shelves(log.parent).get(log.name, Shelf())
    for start, beside in shelf.unfinished:
        for copy in shelf.copies:
            if copy.start == start and copy.path.samefile(beside):
                _finish(log.parent, descriptor, copy)
        beside.unlink(missing_ok=True)
    shelf.unfinished.clear()
    if shelf.copies and not _follows(descriptor, shelf.copies[-1]):
        for copy in shelf.copies:
            _set_aside(copy.path)
        shelf = list_shelves(log.parent).get(log.name, Shelf())
    return shelf


def _follows(descriptor: int, copy: Copy) -> bool:
    """Whether a log goes on where its newest copy ends: it is as long, and a hole up to there."""
    if os.fstat(descriptor).st_size < copy.end:
        return False
    return skip_zeros(descriptor, kernel.find_data(descriptor, 0)) >= copy.end


def _finish(directory: Path, descriptor: int, copy: Copy) -> None:
    """Punch the hole that is still due, if these are the bytes that were copied."""
    block = kernel.find_data(descriptor, 0)
    position = skip_zeros(descriptor, block)
    if not copy.start <= position < copy.end <= os.fstat(descriptor).st_size:
        return
    while position < copy.end:
        data = copy.read(position, BLOCK_BYTES)
        if not data or data != os.pread(descriptor, len(data), position):
            return  # somebody emptied or replaced the log meanwhile
        position += len(data)
    _sync_directory(directory)
    kernel.punch_hole(descriptor, block, copy.end)


def _set_aside(path: Path) -> None:
    """Rename a copy of a log that somebody emptied or replaced: its offsets are taken anew."""
    for number in count(1):
        aside = path.with_name(f"{path.name}.{number}")
        if not aside.exists():
            path.rename(aside)
            return


def _remove_oldest(shelf: Shelf, backups: int) -> None:
    """Remove what is more than the operator wants to keep."""
    paths = [*(path for _, path in shelf.aside), *(copy.path for copy in shelf.copies)]
    for path in paths[: max(0, len(paths) - backups)]:
        path.unlink(missing_ok=True)
