"""The shard directory: the names of its files, and their listing.

Standard library only. It reads names and changes nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

RETIRED: Final = ".retired"

# A pid is a signed 32-bit number that begins at 1; anything longer names no process.
_PID_MAX: Final = 2**31 - 1
_SHARD_NAME: Final = re.compile(
    r"(?:(counter|histogram|summary)"
    r"|gauge_(all|liveall|min|livemin|max|livemax|sum|livesum|mostrecent|livemostrecent))"
    r"_([1-9][0-9]{0,9})\.db"
)


@dataclass(frozen=True, slots=True)
class Shard:
    """One `.db` file: its metrics' kind (counter, gauge, histogram, summary) and its writer.

    `mode` is the gauges' multiprocess mode (`livemax`, …), "" for the other kinds.
    """

    path: Path
    kind: str
    mode: str
    pid: int


def parse_shard_name(name: str) -> tuple[str, str, int] | None:
    """Read (kind, mode, pid) from a file name, None when prometheus_client never writes it."""
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        return None
    kind, mode, digits = match.groups()
    pid = int(digits)
    return (kind or "gauge", mode or "", pid) if pid <= _PID_MAX else None


def list_shards(directory: Path) -> tuple[Shard, ...]:
    """List the shards of a directory by name: regular files only, none when there is no directory.

    Raises OSError when the directory is there but cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            found = {
                entry.name: parsed
                for entry in entries
                if (parsed := parse_shard_name(entry.name)) and entry.is_file(follow_symlinks=False)
            }
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(Shard(directory / name, *found[name]) for name in sorted(found))
