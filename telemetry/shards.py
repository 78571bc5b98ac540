"""The shard directory: the names of its files, their listing, and the one way to clear it.

Standard library only. It removes nothing but shard files and `.retired/`, and never follows a
link out of the directory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

RETIRED: Final = ".retired"
CLEARABLE_NAMES: Final = ("prom_multiproc", "prometheus_multiproc")

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


@dataclass(frozen=True, slots=True)
class Cleared:
    """What `clear` did: the number of files removed, and the held ones it left in place."""

    removed: int
    kept: tuple[Path, ...]


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


def find_clear_refusal(directory: Path) -> str | None:
    """Say in one line why a directory may not be cleared, None when it may.

    Links are resolved first, so neither the link's own name nor its place counts. A missing
    directory may be cleared: there is nothing in it.
    """
    resolved = _resolve(directory)
    if resolved == Path("/"):
        return "it is the root directory"
    # Path.home raises where nothing names a home; this gives "~" back.
    if resolved == Path(os.path.realpath(os.path.expanduser("~"))):  # noqa: PTH111
        return "it is the home directory"
    if resolved.name not in CLEARABLE_NAMES:
        return f"its name is {resolved.name!r}, not {' or '.join(CLEARABLE_NAMES)}"
    try:
        mode = os.lstat(resolved).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be examined: {error.strerror}"
    return None if stat.S_ISDIR(mode) else "it is not a directory"


def list_clearable(directory: Path) -> tuple[Path, ...]:
    """List the files that `clear` would remove: the shards, then all that lies in `.retired/`."""
    retired_files, _ = _list_tree(directory / RETIRED)
    return (*(shard.path for shard in list_shards(directory)), *retired_files)


def clear(
    directory: Path, held: Collection[Path], *, seen: Collection[Path] | None = None
) -> Cleared:
    """Remove the shard files and `.retired/`, but no path in `held`.

    With `seen`, a listing made before looking for holders, a file that came later stays too:
    nobody has asked whether it is held.
    Raises ValueError when `find_clear_refusal` objects, OSError when a file cannot be removed.
    """
    refusal = find_clear_refusal(directory)
    if refusal is not None:
        raise ValueError(f"{directory} may not be cleared: {refusal}")
    root = _resolve(directory)
    candidates = list_clearable(root)
    if seen is not None:
        before = {_resolve_parent(path) for path in seen}
        candidates = tuple(path for path in candidates if path in before)
    cleared = _remove_files(candidates, {_resolve_parent(path): path for path in held})
    _, retired_directories = _list_tree(root / RETIRED)
    for path in retired_directories:
        _remove_if_empty(path)
    return cleared


def _resolve(path: Path) -> Path:
    # Unlike Path.resolve, it leaves a loop of links unresolved instead of raising.
    return Path(os.path.realpath(path))


def _resolve_parent(path: Path) -> Path:
    return _resolve(path.parent) / path.name


def _list_tree(top: Path) -> tuple[list[Path], list[Path]]:
    """List a tree's files (links included, never followed) and directories, deepest first.

    A `top` that is no directory is the only file of its tree.
    """
    if top.is_symlink() or not top.is_dir():
        return ([top] if os.path.lexists(top) else []), []
    files: list[Path] = []
    directories: list[Path] = []
    for parent, children, names in os.walk(top, topdown=False, onerror=_raise_unless_missing):
        # os.walk counts a link to a directory among the directories, though it never enters it.
        links = (name for name in children if Path(parent, name).is_symlink())
        files.extend(Path(parent, name) for name in (*names, *links))
        directories.append(Path(parent))
    return files, directories


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _remove_files(paths: Collection[Path], spared: Mapping[Path, Path]) -> Cleared:
    removed = 0
    kept = []
    for path in paths:
        if path in spared:
            kept.append(spared[path])
            continue
        try:
            path.unlink()
        except FileNotFoundError:  # its process was marked dead in the meantime
            continue
        removed += 1
    return Cleared(removed, tuple(kept))


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
