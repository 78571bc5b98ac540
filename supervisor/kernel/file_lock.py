"""Where there are no abstract names: the lock of a spawn is a file of its own, locked by flock.

Nothing in it is of one system; the project's own tests run it where they run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SpawnLock:
    """The lock of the one incarnation that is spawned with a nonce; it inherits it."""

    directory: Path  # of the state: it lies there
    nonce: str

    @property
    def _path(self) -> str:
        return f"{self.directory}/{self.nonce}.lock"

    def take(self) -> int:
        """Take it, give back the descriptor to be inherited; raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor

    def is_held(self) -> bool:
        """Whether anybody lives who inherited it; for a moment we have it ourselves."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def find(self) -> tuple[int, int] | None:
        """Find its inode and device, for who holds it to be looked for; None if it is gone."""
        try:
            found = Path(self._path).lstat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_dev

    def remove(self) -> None:
        """Remove the file, now that nobody lives of that incarnation."""
        with contextlib.suppress(OSError):
            Path(self._path).unlink(missing_ok=True)

    def __str__(self) -> str:
        """Tell a person what it is, and by what to find who holds it."""
        return f"{self._path} (lsof)"
