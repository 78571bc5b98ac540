"""`.retired` of one shard directory as metricsd holds it: its lock, its claims, its base.

Whoever has the lock folds; the base in memory is the file that was published last, or the one that
was found. What else is there instead of the directory is never followed.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, TypeAlias

from telemetry.base import Base, BaseError
from telemetry.fold import (
    BASE,
    Claim,
    list_claims,
    lock_retired,
    read_base,
    recover,
    set_aside_base,
)
from telemetry.shards import RETIRED, DirectoryMark, Stillness

if TYPE_CHECKING:
    from pathlib import Path

    from telemetry.complaints import Complaints

# Device, inode, size and time of the last writing.
FileMark: TypeAlias = tuple[int, int, int, int]

_logger = logging.getLogger(__name__)


class RetiredHeldError(Exception):
    """Another process folds the claims of this directory."""

    def __init__(self, retired: Path) -> None:
        super().__init__(f"another metricsd has {retired}")


class Retired:
    """The claims and the base of a shard directory."""

    def __init__(self, directory: Path, complaints: Complaints) -> None:
        self.path = directory / RETIRED
        self.base = Base()
        self._directory = directory
        self._complaints = complaints
        self._base_file: FileMark | None = None
        self._lock: int | None = None  # without it nothing is folded
        self._stillness = Stillness()
        self._claimless: DirectoryMark | None = None  # when no claim was in it

    def open(self) -> None:
        """Take over the base that there is; what a crash left of a fold is finished or removed.

        Raises RetiredHeldError when another process folds there, OSError when the base is there
        and cannot be read now.
        """
        base = Base()
        # On a read-only disk there is no fold.
        self._complaints.attempt("lock .retired", self.take_lock)
        try:
            self.refuse_other()
            base = read_base(self.path)
        except NotADirectoryError as error:
            self._complaints.note("claims", f"cannot use {self.path}: {error.strerror}")
        except BaseError as error:
            _logger.error("the base is unreadable: %s", error)  # noqa: TRY400
            self._complaints.attempt("set it aside", self._set_aside_base)
        self.use(base)
        if self._lock is not None:
            self._complaints.attempt("recover", lambda: recover(self.path, base))

    def _set_aside_base(self) -> None:
        _logger.warning("it was kept as %s", set_aside_base(self.path))

    def close(self) -> None:
        """Give back the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def use(self, base: Base) -> None:
        """Go by this base, which is the file that lies there."""
        self.base = base
        self._base_file = _mark(self.path / BASE)

    def take_lock(self) -> bool:
        """Take the lock, anew when the directory was replaced; tell whether it is held.

        It is not taken in a missing directory. Raises RetiredHeldError when another has it.
        """
        if self._lock is not None:
            if _is_same(self._lock, self.path):
                return True
            self.close()
        if self._directory.is_dir():
            self.refuse_other()
            self._lock = lock_retired(self._directory)
            if self._lock is None:
                raise RetiredHeldError(self.path)
        return self._lock is not None

    def refuse_other(self) -> None:
        """Raise NotADirectoryError when `.retired` is anything else, a link to one included."""
        if os.path.lexists(self.path) and (self.path.is_symlink() or not self.path.is_dir()):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(self.path))

    def list_claims(self, former: list[Claim]) -> list[Claim]:
        """List what the base does not hold yet; where that cannot be done, the last list stands.

        Raises FileNotFoundError when a claim goes while it is listed.
        """
        try:
            self.refuse_other()
            claims = list_claims(self.path, after=self.base.claim)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._complaints.note("claims", f"cannot use {self.path}: {error.strerror or error}")
            return [c for c in former if c.number is None or c.number > self.base.claim]
        self._complaints.note("claims", "")
        return claims

    def has_claims(self) -> bool:
        """Whether there may be complete ones; one that was left alone since is not opened again.

        Who asks after our health every second would else wake whoever watches the directory.
        """
        try:
            mark = self._stillness.find_mark(self.path)
        except OSError:
            mark = None
        if mark is not None and mark == self._claimless:
            return False
        found = any(name.startswith("claim-") for name in _list_names(self.path))
        self._claimless = None if found else mark
        return found

    def is_base_lost(self) -> bool:
        """Whether our base is no longer the file we published, its directory being there.

        It was replaced, by one without a base, or somebody wrote to it or cut it.
        """
        return (
            bool(self.base.sections)
            and self._directory.is_dir()
            and _mark(self.path / BASE) != self._base_file
        )


def _mark(path: Path) -> FileMark | None:
    """Take down what tells a file from another, and from itself once it is written to."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _list_names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208  names are all that is asked for
    except OSError:
        return []
