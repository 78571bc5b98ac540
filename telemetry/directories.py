"""Directories of ours: made private, kept out of git, locked.

Standard library only. It never changes the mode of a directory it did not make, and the lock
is a flock on the directory itself, so there is no lock file to go stale.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# What lies below it is this machine's business and no repository's.
OPS_LOCAL: Final = ".ops_local"


def create_private(directory: Path) -> None:
    """Make a directory for its owner alone; one that is there stays as it is. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.parent.name == OPS_LOCAL:
        ignore = directory.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")


def lock_directory(directory: Path) -> int | None:
    """Lock a directory for as long as the descriptor is open; None when somebody else has it.

    Raises OSError when it cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
