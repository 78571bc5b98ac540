"""Looks into the shard directory: which one it is, what lies in it, what cannot be read.

A file is read when it is new, was touched, or could not be read the last time; no other is.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor.drift.facts import DirectoryFacts, Stray
from telemetry.shards import (
    NOTHING,
    RETIRED,
    Defect,
    Listing,
    Shard,
    ShardError,
    list_directory,
    parse_shard_name,
    read_shard,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

# A shard may be read in the middle of a write: what is wrong is looked at once more.
_AGAIN_SECONDS: Final = 0.05
_KINDS: Final = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
)


NOWHERE: Final = DirectoryFacts(None)


@dataclass(frozen=True, slots=True)
class DirectoryLook:
    """What one look found. `defects` says of shards, by name, why they cannot be used whole."""

    facts: DirectoryFacts = NOWHERE
    shards: Mapping[str, Shard] = field(default_factory=dict)
    strays: tuple[Stray, ...] = ()
    defects: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class DirectoryLooker:
    """Looks into one directory again and again."""

    directory: Path
    _listing: Listing = NOTHING
    _defects: dict[str, str] = field(default_factory=dict)

    def look(self, touched: Collection[str] = ()) -> DirectoryLook:
        """Look; files of these names may have been written to, otherwise than a session writes.

        Raises OSError where nothing can be opened: that says nothing of the directory.
        """
        former = self._listing
        try:
            found = self.directory.stat()
            listing = list_directory(self.directory, former)
            names = os.listdir(self.directory)  # noqa: PTH208 - names, not a Path for each
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise
            self._listing, self._defects = NOTHING, {}
            return DirectoryLook(DirectoryFacts(None, error.strerror or str(error)))
        self._listing = listing
        self._defects = self._read_defects(former, touched)
        # By their names: a shard that came between the two listings is none of these.
        strays = {name for name in names if name != RETIRED and parse_shard_name(name) is None}
        for name, defect in listing.defects:
            if defect is Defect.IRREGULAR:
                self._defects[name] = f"it is a {find_kind(self.directory / name)}"
        return DirectoryLook(
            DirectoryFacts((found.st_dev, found.st_ino)),
            listing.by_name,
            tuple(Stray(name, find_kind(self.directory / name)) for name in sorted(strays)),
            dict(self._defects),
        )

    def _read_defects(self, former: Listing, touched: Collection[str]) -> dict[str, str]:
        suspects = [
            shard
            for name, shard in self._listing.by_name.items()
            if name in touched
            or name in self._defects
            or (known := former.by_name.get(name)) is None
            or known.inode != shard.inode
        ]
        found = read_defects(suspects)
        if found.keys() - self._defects.keys():
            time.sleep(_AGAIN_SECONDS)
            found = read_defects(shard for shard in suspects if shard.path.name in found)
        return found


def read_defects(shards: Iterable[Shard]) -> dict[str, str]:
    """Read which of these shards cannot be used, or not whole, and why; by name."""
    found = {}
    for shard in shards:
        try:
            _, defect = read_shard(shard.path)
        except FileNotFoundError:
            continue
        except ShardError as error:
            found[shard.path.name] = f"{error} ({error.defect})"
        except OSError:  # this process is short of something: the shard may be good
            continue
        else:
            if defect is not None:
                found[shard.path.name] = f"its bytes are damaged ({defect})"
    return found


def find_kind(path: Path) -> str:
    """Say in a word what lies there."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return "file"
    return next((word for check, word in _KINDS if check(mode)), "device")
