"""Disk space for one process's shards, taken before prometheus_client maps them.

Owns the size and the blocks of this PID's shard files; never touches what is written in them.
A mapped page that a full disk cannot back kills its writer with SIGBUS. Asking for the blocks
beforehand turns that into an OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# What prometheus_client gives a new shard, and doubles when it is full.
SHARD_BYTES: Final = 1 << 16
# The file name prefixes of the two shards that a session writes.
SHARD_PREFIXES: Final = ("counter", "gauge_livemax")

# The file system, or a C library that does not stand in for it, has no such operation.
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class ShardSpace:
    """The room in this process's shards; after a fork, in those of the new process."""

    __slots__ = ("_directory", "_mapped", "_sizes")

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._sizes = dict.fromkeys(SHARD_PREFIXES, SHARD_BYTES)
        self._mapped: set[str] = set()

    def allocate(self) -> None:
        """Create this PID's shards, as large as they ever grew here; existing ones are kept.

        Raises OSError when the disk cannot hold them; then no file of ours is left behind.
        """
        created: list[str] = []
        try:
            for prefix in SHARD_PREFIXES:
                self._create(prefix, created)
        except OSError:
            for path in created:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # noqa: PTH108  a session that waits needs no pathlib
            raise

    def make_room(self, prefix: str, wanted_bytes: int) -> None:
        """See to it that `wanted_bytes` can be added to a shard, and count on it being mapped.

        prometheus_client doubles a full shard with a truncate, which takes no blocks. Where the
        doubled file is there already, that truncate changes nothing, and the blocks are taken.
        Raises OSError when the disk is full, or when a mapped shard has been moved away.
        """
        if prefix not in self._mapped:
            # Nobody held it open so far, so metricsd may have cleared it when it started.
            self._create(prefix, [])
            self._mapped.add(prefix)
        with _open_shard(self._find_path(prefix)) as descriptor:
            used_bytes = int.from_bytes(os.pread(descriptor, 4, 0), sys.byteorder)
            size = max(self._sizes[prefix], os.fstat(descriptor).st_size)
            while size < used_bytes + wanted_bytes:
                size *= 2
            _allocate(descriptor, size)
        self._sizes[prefix] = size

    def _create(self, prefix: str, created: list[str]) -> None:
        path = self._find_path(prefix)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
            created.append(path)
        with _open_shard(path) as descriptor:
            _allocate(descriptor, self._sizes[prefix])

    def _find_path(self, prefix: str) -> str:
        return f"{self._directory}/{prefix}_{os.getpid()}.db"


@contextlib.contextmanager
def _open_shard(path: str) -> Iterator[int]:
    """Open an existing shard, not a link to one; an error inside names the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield descriptor
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Back the first `size` bytes with disk blocks; their content stays as it is.

    The one place where the platforms differ. Raises OSError (ENOSPC, EDQUOT, EFBIG).
    """
    if sys.platform == "linux":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    # macOS has no posix_fallocate; zeros that are written take blocks as well. Only the end can
    # be filled that way: a hole further up may be mapped, and counted in, at this moment.
    end = os.fstat(descriptor).st_size
    while end < size:
        end += os.pwrite(descriptor, bytes(size - end), end)
