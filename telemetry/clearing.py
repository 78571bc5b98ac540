"""Clearing the shard directory, as both metricsd and the supervisor do it at a fresh start.

It removes nothing but shard files and `.retired/`, never follows a link out of the directory,
and never removes a shard that a living process holds open: that one stays, and is named.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from telemetry.directories import create_private, find_exposure, lock_directory
from telemetry.holders import Holder, find_file_holders
from telemetry.shards import RETIRED, list_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

CLEARABLE_NAMES: Final = ("prom_multiproc", "prometheus_multiproc")


@dataclass(frozen=True, slots=True)
class Cleared:
    """What `clear` did: the number of files removed, and the held ones it left in place."""

    removed: int
    kept: tuple[Path, ...]


def clear_unheld(directory: Path) -> dict[Path, tuple[Holder, ...]]:
    """Remove what a former run left; give back the shards that stayed, with their holders.

    Raises ValueError when the directory may not be cleared, OSError when it cannot be.
    """
    seen = list_clearable(directory)
    held = find_file_holders(seen)
    clear(directory, held, seen=seen)
    return held


def clear_and_say(directory: Path, say: Callable[[str], object]) -> None:
    """Do that, and name the shards that stayed in a line for each group of holders."""
    groups: dict[tuple[Holder, ...], list[str]] = {}
    for path, holders in clear_unheld(directory).items():
        groups.setdefault(holders, []).append(path.name)
    for holders, names in groups.items():
        say(f"kept {' '.join(names)}: held open by {', '.join(map(str, holders))}")


def prepare(directory: Path) -> int | None:
    """Make the shard directory and lock it against whoever would clear it under its sessions.

    The lock lives as long as the descriptor; None when somebody else has it. Raises OSError.
    """
    create_private(directory)
    return lock_directory(directory)


def render_lock_holder(directory: Path) -> str:
    """Name who has the shard directory locked, for a message."""
    holders = find_file_holders([directory]).get(directory, ())
    return str(holders[0]) if holders else "a process that this user may not see"


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
    return find_exposure(resolved) if stat.S_ISDIR(mode) else "it is not a directory"


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
        raise ValueError(f"cannot clear {directory}: {refusal}")
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
