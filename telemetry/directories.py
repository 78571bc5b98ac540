"""Directories of ours: made private, kept out of git, locked.

Standard library only. It never changes the mode of a directory it did not make, and the lock
is a flock on the directory itself, so there is no lock file to go stale.
"""

from __future__ import annotations

import fcntl
import os
import stat
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


def find_exposure(directory: Path) -> str | None:
    """Say in one line why others could put something into a directory; None when they cannot.

    One that is not there is made private. Links are followed. Raises OSError.
    """
    try:
        found = directory.stat()
    except FileNotFoundError:
        return None
    if found.st_uid != os.getuid():
        return f"it belongs to another user (uid {found.st_uid})"
    return "everybody may write there" if found.st_mode & stat.S_IWOTH else None


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
